"""SigLIP checkpoints of big_vision: `.npz` files of a `two_towers` model, read into our towers and written from them.

Enters: an `.npz` whose entries are named `img/…`, `txt/…`, `t` and `b`, with or without `params/` before them. Leaves:
our parameters, or the same file again. `t` is the logarithm of the loss's scale, `b` its bias, both of shape (1,).
Encoder blocks may stand one by one (`encoderblock_3/…`) or stacked (`encoderblock/…`, depth first), as a scanned model
saves them. Nothing is unpickled.
"""

import io
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from schemas import storage
from schemas.errors import ConfigError, DataError

_PARTS = {
    "patches": "embedding",
    "positions": "pos_embedding",
    "pool": "MAPHead_0",
    "attention": "MultiHeadDotProductAttention_0",
    "norm_attention": "LayerNorm_0",
    "norm_mlp": "LayerNorm_1",
    "mlp": "MlpBlock_0",
    "up": "Dense_0",
    "down": "Dense_1",
    "tokens": "Embed_0",
}
_TOP = {"image": "img", "text": "txt", "log_scale": "t", "bias": "b"}
_ENCODERS = {"image": "Transformer", "text": "Encoder_0"}
_SHOWN = 8


def read(path: str) -> dict[str, np.ndarray]:
    """Reads the parameters of a checkpoint, by big_vision's names without `params/`, encoder blocks one by one.

    Raises:
      DataError: the file is missing, or is no `.npz` of arrays.
    """
    try:
        # Not `np.load`, which would take other formats for a checkpoint too.
        with np.lib.npyio.NpzFile(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) as file:
            arrays = {name: _bfloat16(file[name]) for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a big_vision checkpoint (.npz): {error}") from None
    if any(name.startswith("params/") for name in arrays):  # a training checkpoint holds the optimiser's state too
        arrays = {n.removeprefix("params/"): a for n, a in arrays.items() if n.startswith("params/")}
    return _unstacked(arrays)


def to_parameters(arrays: dict[str, np.ndarray], like: Any, path: str) -> Any:
    """Returns parameters of the shapes of `like` (arrays, or shapes only) with the checkpoint's values, in float32.

    Raises:
      ConfigError: parameters are missing, left over or of another shape; lists them.
    """
    check(arrays, like, path)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    values = [np.asarray(arrays[_name(keys)], np.float32).reshape(leaf.shape) for keys, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, [jnp.asarray(value) for value in values])


def check(arrays: dict[str, np.ndarray], like: Any, path: str) -> None:
    """Raises ConfigError, and lists them, if parameters are missing, left over or of another shape."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(like)
    shapes = {_name(keys): _stored_shape(_name(keys), leaf.shape) for keys, leaf in leaves}
    found = {
        "missing": [f"{name} {shape}" for name, shape in shapes.items() if name not in arrays],
        "not part of the model": [f"{name} {array.shape}" for name, array in arrays.items() if name not in shapes],
        "of another shape": [
            f"{name} is {arrays[name].shape} and must be {shape}"
            for name, shape in shapes.items()
            if name in arrays and arrays[name].shape != shape
        ],
    }
    if any(found.values()):
        problems = ". ".join(f"{title.capitalize()}: {_listed(names)}" for title, names in found.items() if names)
        raise ConfigError(
            f"{path} is not the model that --preset and --resolution describe. {problems}. {_hint(arrays)}"
        )


def write(parameters: Any) -> bytes:
    """Returns an `.npz` that big_vision's `two_towers` loads, and `read` too."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameters)
    named = {_name(keys): np.asarray(leaf) for keys, leaf in leaves}
    stored = {f"params/{name}": array.reshape(_stored_shape(name, array.shape)) for name, array in named.items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **stored)
    return file.getvalue()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _name(keys: tuple[Any, ...]) -> str:
    """big_vision's name of one of our parameters."""
    path = [str(key.key) for key in keys if isinstance(key, jax.tree_util.DictKey)]
    tower, parts, at = path[0], [_TOP[path[0]]], 1
    while at < len(path):
        part = path[at]
        if part == "encoder" and path[at + 1] == "blocks":
            parts += [_ENCODERS[tower], f"encoderblock_{path[at + 2]}"]
            at += 3
        elif part == "encoder":
            parts += [_ENCODERS[tower], "encoder_norm"]
            at += 2
        else:
            parts.append("LayerNorm_0" if part == "norm" else _PARTS.get(part, part))
            at += 1
    return "/".join(parts)


def _stored_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name in ("t", "b"):
        return (1,)
    if name == "img/embedding/kernel":  # a convolution's there, a matrix here
        patch = round((shape[0] / 3) ** 0.5)
        return (patch, patch, 3, shape[1])
    return shape


def _unstacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    result = {}
    for name, array in arrays.items():
        if "/encoderblock/" in name:
            for i, block in enumerate(array):
                result[name.replace("/encoderblock/", f"/encoderblock_{i}/")] = block
        else:
            result[name] = array
    return result


def _bfloat16(array: np.ndarray) -> np.ndarray:
    """NumPy's format has no bfloat16, and stores such arrays as two bytes without a type."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _hint(arrays: dict[str, np.ndarray]) -> str:
    kernel, positions = arrays.get("img/embedding/kernel"), arrays.get("img/pos_embedding")
    if kernel is None or positions is None or kernel.ndim != 4 or positions.ndim != 3:
        return "Is it a SigLIP model of big_vision's two_towers?"
    patch, width, side = kernel.shape[0], kernel.shape[-1], round(positions.shape[1] ** 0.5)
    depth = len({n.split("/")[2] for n in arrays if n.startswith("img/Transformer/encoderblock_")})
    return (
        f"The file holds an image tower of width {width} and depth {depth} with patches of {patch}, made for a "
        f"resolution of {side * patch}"
    )
