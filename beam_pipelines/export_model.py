"""`superbatch export --format=big_vision`: a model as a file that other programs read.

Enters: the workdir of a finished model. Leaves: a big_vision checkpoint FILE.npz, and its tokenizer beside it as
FILE.tokenizer.model. Both are committed only where their names are free or hold the same bytes already. The checkpoint
comes last, so where it is, its tokenizer is.
"""

import hashlib
import logging
import shlex
from dataclasses import dataclass

import jax

from schemas import storage
from schemas.errors import IntegrityError
from trainer import big_vision
from trainer import model as models
from trainer.decode import DECODERS

_NPZ = ".npz"
_TOKENIZER = ".tokenizer.model"
_SHOWN_DIGITS = 12
log = logging.getLogger(__name__)


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

    def __str__(self) -> str:
        """The line that the command ends with."""
        return (
            f"exported {self.checkpoint}: {self.parameters} parameters, sha256 {self.sha256[:_SHOWN_DIGITS]}; "
            f"read it back with {self.flags()}"
        )


def run(checkpoint: str, output: str) -> ExportedModel:
    """Exports a model. Two exports of one model are equal, byte for byte.

    Args:
      checkpoint: the workdir of a finished model.
      output: the file to make, FILE.npz.

    Raises:
      DataError: the workdir's run is not finished.
      IntegrityError: one of the files is there already, with other content.
    """
    model = models.Source(checkpoint).load()
    tokenizer = output.removesuffix(_NPZ) + _TOKENIZER
    content = big_vision.write(model.parameters)
    files = {tokenizer: model.tokenizer.model, output: content}
    # Both are checked before either is written.
    free = [path for path in files if not _is_there(path, files[path])]
    for path in free:
        if not storage.write_once(path, files[path]):
            _is_there(path, files[path])  # someone was quicker
    if not free:
        log.info("%s is complete already: nothing to do", output)
    decoder = next(name for name, identity in DECODERS.items() if identity == model.architecture.decoder)
    return ExportedModel(
        output, tokenizer, model.architecture.preset, model.architecture.resolution, decoder,
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
