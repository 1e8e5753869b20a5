"""A trained model: what it is made of, how it is saved, found and called.

Enters: a finished workdir (kind `model`), or a big_vision `.npz`. Leaves: a `Model` whose `embed` maps images and
tokens to unit vectors, in fixed batches so that jit compiles once. Embedding, evaluation and the trainer's own set-up
share it.
"""

import dataclasses
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
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.identity import canonical_json
from trainer import big_vision, presets, tokenizer
from trainer.checkpoint import CHECKPOINTS, restore_parameters
from trainer.decode import ANTIALIASED, DECODERS, check_decoder, decode_image, preprocessing_fingerprint
from trainer.selection import PairEmbeddings
from trainer.towers import TwoTowers

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Architecture:
    """Everything that decides what the towers compute, beside their parameters."""

    preset: str
    resolution: int
    vocabulary: int
    text_length: int | None = None  # tokens; the preset's own if not given
    decoder: str = ANTIALIASED  # one of trainer.decode's

    def __post_init__(self) -> None:
        check_decoder(self.decoder)

    def build(self, seed: int) -> tuple[Any, Any]:
        """Returns (graph definition, initial parameters)."""
        graph, parameters, _ = nnx.split(self._towers(seed), nnx.Param, ...)
        return graph, parameters

    def shapes(self) -> tuple[Any, Any]:
        """Returns (graph definition, the parameters' shapes), and makes no parameters."""
        graph, parameters, _ = nnx.split(nnx.eval_shape(lambda: self._towers(0)), nnx.Param, ...)
        return graph, parameters

    def _towers(self, seed: int) -> TwoTowers:
        preset = presets.get(self.preset)
        preset = dataclasses.replace(preset, text_length=self.text_length or preset.text_length)
        return TwoTowers(preset, self.resolution, self.vocabulary, rngs=nnx.Rngs(jax.random.key(seed)))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def embed_pairs(
    graph: Any,
    parameters: Any,
    images: jax.Array,
    tokens: jax.Array,
    patch_size: int | None = None,
    dtype: str = "float32",
) -> PairEmbeddings:
    """Embeds a batch of pairs: the forward pass of both towers, images in patches of `patch_size` or the preset's.

    The encoders compute in `dtype`. Embeddings are made unit norm, and the loss's scale and bias are kept, in float32.
    """
    scale, bias = jnp.exp(parameters["log_scale"][...]), parameters["bias"][...]
    towers = nnx.merge(graph, jax.tree.map(lambda p: p.astype(dtype), parameters))
    image, text = towers(images, tokens, patch_size)
    return PairEmbeddings(image, text, scale, bias)


@functools.partial(jax.jit, static_argnums=0)
def _embed_images(graph: Any, parameters: Any, images: jax.Array) -> jax.Array:
    return nnx.merge(graph, parameters).embed_images(images)


@functools.partial(jax.jit, static_argnums=0)
def _embed_texts(graph: Any, parameters: Any, tokens: jax.Array) -> jax.Array:
    return nnx.merge(graph, parameters).embed_texts(tokens)


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

    def decode(self, image: bytes) -> np.ndarray:
        """Decodes an image as this model sees it, to uint8 [r, r, 3]; raises OSError if it cannot be."""
        return decode_image(image, self.architecture.resolution, self.architecture.decoder)

    def embed(self, images: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeds uint8 images [n, r, r, 3] and token ids [n, length]; returns float32 unit vectors [n, d] each."""
        pairs = embed_pairs(self.graph, self.parameters, images, tokens)
        return np.asarray(pairs.image), np.asarray(pairs.text)

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Embeds uint8 images [n, r, r, 3] alone; returns float32 unit vectors [n, d]."""
        return np.asarray(_embed_images(self.graph, self.parameters, images))

    def embed_texts(self, tokens: np.ndarray) -> np.ndarray:
        """Embeds token ids [n, length] alone; returns float32 unit vectors [n, d]."""
        return np.asarray(_embed_texts(self.graph, self.parameters, tokens))


@dataclass(frozen=True)
class Source:
    """Where a model comes from: the workdir of a finished run, which says everything itself, or a big_vision `.npz`.

    Raises:
      ConfigError: an `.npz` without preset, resolution and tokenizer, or a workdir with any of them.
    """

    path: str
    preset: str | None = None
    resolution: int | None = None
    tokenizer: str | None = None
    decoder: str | None = None  # antialiased or big_vision; of an `.npz`, big_vision if not given

    def __post_init__(self) -> None:
        described = {name: getattr(self, name) for name in ("preset", "resolution", "tokenizer")}
        if self.is_npz and (absent := [f"--{name}" for name, value in described.items() if value is None]):
            raise ConfigError(f"{self.path} holds parameters only: give {', '.join(absent)} as well")
        if not self.is_npz and (given := [f"--{name}" for name, value in described.items() if value is not None]):
            raise ConfigError(
                f"{self.path} is a workdir, which says itself what its model is: leave out {', '.join(given)}"
            )
        if self.decoder is not None and not self.is_npz:
            raise ConfigError(f"{self.path} is a workdir, which says itself how it decodes: leave out --decoder")
        if self.decoder not in (None, *DECODERS):
            raise ConfigError(f"decoder is {self.decoder!r}; it must be one of {', '.join(DECODERS)}")
        if self.preset is not None:
            presets.get(self.preset)

    @property
    def is_npz(self) -> bool:
        """Whether this is a file of parameters rather than a workdir."""
        return storage.is_npz(self.path)

    def fingerprint(self) -> str:
        """A workdir's own, or the sha256 of what decides an `.npz`'s embeddings: both files, preset and resolution.

        Raises:
          DataError: the workdir's run is not finished, or a file is missing.
        """
        if not self.is_npz:
            return manifests.read(self.path, kind="model").fingerprint
        try:
            files = [storage.hash_file(path)[1] for path in (storage.as_path(self.path), self.tokenizer_file)]
        except OSError as error:
            raise DataError(f"{self.path} or its tokenizer {self.tokenizer} cannot be read: {error}") from None
        identity = {
            "npz": files[0], "tokenizer": files[1], "preset": self.preset, "resolution": self.resolution,
            "decoder": self._decoder,
        }  # fmt: skip
        return hashlib.sha256(canonical_json(identity)).hexdigest()

    def as_parent(self, role: str) -> manifests.Parent:
        """Returns the record of this model for the manifest of what is made with it."""
        return manifests.Parent(role=role, path=storage.absolute(self.path), fingerprint=self.fingerprint())

    @property
    def tokenizer_file(self) -> storage.epath.Path:
        """Where its tokenizer lies."""
        return storage.as_path(self.tokenizer or storage.as_path(self.path) / tokenizer.FILE_NAME)

    def load(self) -> "Model":
        """Loads the model.

        Raises:
          ConfigError: an `.npz` that is not what preset, resolution and tokenizer say.
          DataError: the workdir's run is not finished, or the file is no checkpoint.
          IntegrityError: the parameters are not those the manifest names.
        """
        if self.is_npz and self.preset and self.resolution and self.tokenizer:
            return _load_npz(self.path, self.preset, self.resolution, self.tokenizer, self._decoder)
        return _load_workdir(self.path)

    @property
    def _decoder(self) -> str:
        return DECODERS[self.decoder or "big_vision"]


def _load_npz(path: str, preset: str, resolution: int, tokenizer_path: str, decoder: str) -> Model:
    arrays = big_vision.read(path)
    embedding, positions = arrays.get("txt/Embed_0/embedding"), arrays.get("txt/pos_embedding")
    # What the file says of the texts is taken from it; if it says nothing, the check below says what is missing.
    length = presets.get(preset).text_length if positions is None or positions.ndim != 3 else positions.shape[1]
    tokens = tokenizer.load(tokenizer_path, length)
    if embedding is not None and len(embedding) != tokens.vocabulary:
        raise ConfigError(
            f"{path} embeds {len(embedding)} token ids and the tokenizer {tokenizer_path} has {tokens.vocabulary}: "
            "give the SentencePiece model that this checkpoint was trained with"
        )
    architecture = Architecture(preset, resolution, tokens.vocabulary, length, decoder)
    graph, like = architecture.shapes()
    return assemble(architecture, graph, big_vision.to_parameters(arrays, like, path), tokens)


def _load_workdir(workdir: str) -> Model:
    info = manifests.read(workdir, kind="model").model
    if info is None:
        raise IntegrityError(f"{workdir}: the manifest of a model lacks its `model` section")
    try:
        stored = json.loads((storage.as_path(workdir) / CONFIG_FILE).read_bytes())
        architecture = Architecture(**stored["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{workdir}/{CONFIG_FILE} is missing or damaged: {error!r}") from None
    length = architecture.text_length or presets.get(architecture.preset).text_length
    tokens = tokenizer.load(str(storage.as_path(workdir) / tokenizer.FILE_NAME), length)
    graph, like = architecture.build(seed=0)
    model = assemble(architecture, graph, restore_parameters(str(storage.as_path(workdir) / CHECKPOINTS), like), tokens)
    if model.info != info:
        raise IntegrityError(f"{workdir}: the model found there is {model.info}, and its manifest says {info}")
    return model


def assemble(architecture: Architecture, graph: Any, parameters: Any, tokens: tokenizer.Tokenizer) -> Model:
    """Puts a model together from its parts."""
    return Model(
        architecture, graph, parameters, tokens, identify(architecture, parameters, tokens),
        scale=float(np.exp(parameters["log_scale"][...])), bias=float(parameters["bias"][...]),
    )  # fmt: skip


def identify(architecture: Architecture, parameters: Any, tokens: tokenizer.Tokenizer) -> manifests.ModelInfo:
    """Returns the fingerprints of a model's three parts."""
    return manifests.ModelInfo(
        parameters=parameters_fingerprint(parameters),
        preprocessing=preprocessing_fingerprint(architecture.decoder, architecture.resolution, tokens.length),
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
