"""One image tower at several patch sizes (FlexiViT, arXiv 2212.08013, §3).

A patch of another size sees the picture at another sampling. PI-resize changes the kernel so that it answers to a
resized patch as the kernel it came from answers to the patch: ŵ = argmin E[(⟨x, w⟩ − ⟨Bx, ŵ⟩)²] = (Bᵀ)⁺ w for white x,
where B resizes bilinearly. Enlarging loses nothing: then ⟨Bx, ŵ⟩ = ⟨x, w⟩ for every x. Position embeddings are resized
bilinearly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_kernel(kernel: Float[Array, "inputs width"], new: int) -> Float[Array, "inputs_new width"]:
    """PI-resizes the kernel of square RGB patches, [p·p·3, width], to patches of `new` pixels a side."""
    old = round((kernel.shape[0] / 3) ** 0.5)
    if new == old:
        return kernel
    # Bilinear resizing treats rows and columns alike, so B is a Kronecker square, and so is its pseudo-inverse.
    inverse = jnp.asarray(_pseudo_inverse(old, new), jnp.promote_types(kernel.dtype, jnp.float32))
    resized = jnp.einsum("ai,bj,ijcd->abcd", inverse, inverse, kernel.reshape(old, old, 3, -1), precision="highest")
    return resized.reshape(new * new * 3, -1).astype(kernel.dtype)


def resize_positions(positions: Float[Array, "1 tokens width"], new: int) -> Float[Array, "1 tokens_new width"]:
    """Resizes a square grid of position embeddings to `new` positions a side."""
    _, tokens, width = positions.shape
    old = round(tokens**0.5)
    if new == old:
        return positions
    grid = positions.reshape(1, old, old, width)
    return jax.image.resize(grid, (1, new, new, width), "linear").reshape(1, new * new, width)


def bilinear(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The matrix that resizes a line of `old` samples to `new`: half-pixel centres, no antialiasing, edges held."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] += 1 - (place - low)
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += place - low
    return matrix


@functools.cache
def _pseudo_inverse(old: int, new: int) -> np.ndarray:
    return np.linalg.pinv(bilinear(old, new).T)
