"""PI-resize: enlarged kernels answer as before, and both resizings are those of the paper's code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from schemas.errors import ConfigError
from trainer import flexi
from trainer.model import Architecture, embed_pairs


@pytest.mark.parametrize(("old", "new"), [(8, 16), (16, 32), (16, 20), (14, 28)])
def test_an_enlarged_kernel_answers_to_an_enlarged_patch_as_before(old, new):
    rng = np.random.default_rng(0)
    patch, kernel = rng.normal(size=(old, old, 3)), rng.normal(size=(old, old, 3, 5))
    enlarged = np.asarray(
        jax.image.resize(jnp.asarray(patch, jnp.float32), (new, new, 3), "linear", antialias=False), np.float64
    )
    resized = flexi.resize_kernel(jnp.asarray(kernel.reshape(-1, 5), jnp.float32), new)
    np.testing.assert_allclose(enlarged.ravel() @ np.asarray(resized), patch.ravel() @ kernel.reshape(-1, 5), atol=2e-4)


@pytest.mark.parametrize(("old", "new"), [(16, 32), (16, 8), (14, 30), (16, 16), (1, 3)])
def test_the_resizing_matrix_is_bilinear_without_antialiasing(old, new):
    expected = jax.image.resize(jnp.eye(old), (new, old), "linear", antialias=False)
    np.testing.assert_allclose(flexi.bilinear(old, new), expected, atol=1e-6)


def test_a_smaller_kernel_is_the_least_squares_answer():
    """Against the pseudo-inverse of the whole patch's resizing, as the paper writes it."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(8 * 8 * 3, 2)).astype(np.float32)
    line = flexi.bilinear(8, 5)
    whole = np.kron(line, line)  # [25, 64]
    expected = np.linalg.pinv(whole.T) @ kernel.reshape(64, -1)
    np.testing.assert_allclose(flexi.resize_kernel(jnp.asarray(kernel), 5).reshape(25, -1), expected, atol=1e-4)


def test_positions_keep_their_place():
    grid = jnp.arange(16.0).reshape(1, 16, 1)
    assert flexi.resize_positions(grid, 4) is grid
    coarse = flexi.resize_positions(grid, 2).reshape(2, 2)
    assert (np.diff(coarse, axis=0) > np.diff(coarse, axis=1).T).all()
    assert float(coarse.mean()) == pytest.approx(7.5)


def test_the_tower_sees_coarse_patches_with_a_quarter_of_the_tokens():
    graph, parameters = Architecture("tiny", 64, 300).build(seed=0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    tokens = rng.integers(0, 300, (2, 16)).astype(np.int32)
    fine, same, coarse = (embed_pairs(graph, parameters, images, tokens, patch) for patch in (None, 16, 32))
    np.testing.assert_array_equal(fine.image, same.image)
    np.testing.assert_array_equal(fine.text, coarse.text)
    assert not np.allclose(fine.image, coarse.image, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(coarse.image, axis=1), 1, rtol=1e-5)

    def tokens_of(patch):
        program = jax.jit(embed_pairs, static_argnums=(0, 4))
        return program.lower(graph, parameters, images, tokens, patch).as_text().count("tensor<2x4x128xf32>")

    assert tokens_of(32) > 0 == tokens_of(16)


def test_a_patch_that_does_not_divide_the_resolution_is_refused():
    graph, parameters = Architecture("tiny", 64, 300).build(seed=0)
    images, tokens = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 16), np.int32)
    with pytest.raises(ConfigError, match=r"resolution 64 is not a multiple of the patch size 24: choose 48 or 72"):
        embed_pairs(graph, parameters, images, tokens, 24)
