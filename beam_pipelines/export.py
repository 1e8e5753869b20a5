"""`superbatch export`: what other programs read, from our artifacts.

Enters: the workdir of a finished model. Leaves: a big_vision checkpoint FILE.npz, and its tokenizer beside it as
FILE.tokenizer.model. Both are committed only where their names are free or hold the same bytes already. The checkpoint
comes last, so where it is, its tokenizer is.
"""

import hashlib
import logging
import shlex
from dataclasses import dataclass
from typing import Literal

import jax

from schemas import storage
from schemas.errors import ConfigError, IntegrityError
from trainer import big_vision
from trainer import model as models
from trainer.decode import DECODERS

_NPZ = ".npz"
_TOKENIZER = ".tokenizer.model"
_SHOWN_DIGITS = 12
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a model as a big_vision SigLIP checkpoint, with its tokenizer beside it."""

    format: Literal["big_vision"]
    """big_vision: a model's parameters in one file"""
    checkpoint: str
    """workdir of a finished `train` or `distill`"""
    output: str
    """file to make (FILE.npz; its tokenizer is FILE.tokenizer.model)"""

    def __post_init__(self) -> None:
        if storage.is_npz(self.checkpoint):
            raise ConfigError(
                f"checkpoint is {self.checkpoint!r}, which is a big_vision checkpoint already: give the workdir of a "
                "finished `train` or `distill`"
            )
        if not storage.is_npz(self.output):
            raise ConfigError(f"output is {self.output!r}; format {self.format} makes one file, FILE.npz")


@dataclass(frozen=True)
class ExportedModel:
    """A checkpoint and what is needed to read it: the tokenizer's file, preset and resolution."""

    checkpoint: str
    tokenizer: str
    preset: str
    resolution: int  # pixels a side
    decoder: str  # how it sees images, by the flag's name
    parameters: int
    sha256: str  # of the checkpoint

    def flags(self) -> str:
        """The flags that describe the checkpoint to `embed` and `evaluate`."""
        flags = f"--preset={self.preset} --resolution={self.resolution} --decoder={self.decoder}"
        return f"{flags} --tokenizer={shlex.quote(self.tokenizer)}"


def run(config: ExportConfig) -> ExportedModel:
    """Exports a model. Two exports of one model are equal, byte for byte.

    Raises:
      DataError: the workdir's run is not finished.
      IntegrityError: one of the files is there already, with other content.
    """
    model = models.Source(config.checkpoint).load()
    tokenizer = config.output.removesuffix(_NPZ) + _TOKENIZER
    content = big_vision.write(model.parameters)
    files = {tokenizer: model.tokenizer.model, config.output: content}
    # Both are checked before either is written.
    free = [path for path in files if not _is_there(path, files[path])]
    for path in free:
        if not storage.write_once(path, files[path]):
            _is_there(path, files[path])  # someone was quicker
    if not free:
        log.info("%s is complete already: nothing to do", config.output)
    decoder = next(name for name, identity in DECODERS.items() if identity == model.architecture.decoder)
    return ExportedModel(
        config.output, tokenizer, model.architecture.preset, model.architecture.resolution, decoder,
        sum(leaf.size for leaf in jax.tree.leaves(model.parameters)), hashlib.sha256(content).hexdigest(),
    )  # fmt: skip


def _is_there(path: str, content: bytes) -> bool:
    """Says whether a file holds this content already; raises IntegrityError if it holds other."""
    if not storage.as_path(path).exists():
        return False
    found, ours = storage.hash_file(path)[1], hashlib.sha256(content).hexdigest()
    if found != ours:
        raise IntegrityError(
            f"{path} is there already with other content: its sha256 is {found[:_SHOWN_DIGITS]}, this model gives "
            f"{ours[:_SHOWN_DIGITS]}. Choose another --output, or delete it"
        )
    return True
