"""A trained model: what it is made of, how it is saved, found and called.

Enters: a finished workdir (kind `model`). Leaves: a `Model` whose `embed` maps images and tokens to unit vectors,
in fixed batches so that jit compiles once. Embedding, evaluation and the trainer's own set-up share it.
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from schemas import manifest as manifests
from schemas import storage
from schemas.errors import ConfigError, IntegrityError
from trainer import presets, tokenizer
from trainer.checkpoint import CHECKPOINTS, restore_parameters
from trainer.decode import preprocessing_fingerprint
from trainer.selection import PairEmbeddings
from trainer.towers import TwoTowers

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Architecture:
    """Everything that decides the towers' shapes."""

    preset: str
    resolution: int
    vocabulary: int

    def build(self, seed: int) -> tuple[Any, Any]:
        """Returns (graph definition, initial parameters)."""
        towers = TwoTowers(
            presets.get(self.preset), self.resolution, self.vocabulary, rngs=nnx.Rngs(jax.random.key(seed))
        )
        graph, parameters, _ = nnx.split(towers, nnx.Param, ...)
        return graph, parameters


@functools.partial(jax.jit, static_argnums=0)
def embed_pairs(graph: Any, parameters: Any, images: jax.Array, tokens: jax.Array) -> PairEmbeddings:
    """Embeds a batch of pairs: the forward pass of both towers."""
    towers = nnx.merge(graph, parameters)
    image, text = towers(images, tokens)
    return PairEmbeddings(image, text, jnp.exp(towers.log_scale[...]), towers.bias[...])


@dataclass(frozen=True)
class Model:
    """A finished model, loaded."""

    architecture: Architecture
    graph: Any
    parameters: Any
    tokenizer: tokenizer.Tokenizer
    info: manifests.ModelInfo
    scale: float
    bias: float

    def embed(self, images: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeds uint8 images [n, r, r, 3] and token ids [n, length]; returns float32 unit vectors [n, d] each."""
        pairs = embed_pairs(self.graph, self.parameters, images, tokens)
        return np.asarray(pairs.image), np.asarray(pairs.text)


def load(workdir: str) -> tuple[Model, manifests.Manifest]:
    """Loads a finished model from the workdir of `train` or `distill`.

    Raises:
      ConfigError: a big_vision `.npz`, which this release does not read.
      DataError: the workdir's run is not finished.
      IntegrityError: the parameters are not those the manifest names.
    """
    if workdir.endswith(".npz"):
        raise ConfigError(
            f"{workdir}: big_vision .npz checkpoints cannot be read yet; give a workdir of `superbatch train`"
        )
    manifest = manifests.read(workdir, kind="model")
    info = manifest.model
    if info is None:
        raise IntegrityError(f"{workdir}: the manifest of a model lacks its `model` section")
    try:
        stored = json.loads((storage.as_path(workdir) / CONFIG_FILE).read_bytes())
        architecture = Architecture(**stored["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{workdir}/{CONFIG_FILE} is missing or damaged: {error!r}") from None
    preset = presets.get(architecture.preset)
    tokens = tokenizer.load(str(storage.as_path(workdir) / tokenizer.FILE_NAME), preset.text_length)
    graph, like = architecture.build(seed=0)
    parameters = restore_parameters(str(storage.as_path(workdir) / CHECKPOINTS), like)
    found = identify(architecture, parameters, tokens)
    if found != info:
        raise IntegrityError(f"{workdir}: the model found there is {found}, and its manifest says {info}")
    towers = nnx.merge(graph, parameters)
    model = Model(
        architecture, graph, parameters, tokens, info,
        scale=float(np.exp(towers.log_scale[...])), bias=float(towers.bias[...]),
    )  # fmt: skip
    return model, manifest


def identify(architecture: Architecture, parameters: Any, tokens: tokenizer.Tokenizer) -> manifests.ModelInfo:
    """Returns the fingerprints of a model's three parts."""
    return manifests.ModelInfo(
        parameters=parameters_fingerprint(parameters),
        preprocessing=preprocessing_fingerprint(architecture.resolution, tokens.length),
        tokenizer=tokens.fingerprint,
    )


def parameters_fingerprint(parameters: Any) -> str:
    """sha256 over every parameter's path, dtype, shape and little-endian bytes, in path order."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
        digest.update(f"{path} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
