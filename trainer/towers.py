"""Two towers: a FlexiViT with an attention-pooling head, and a text transformer (SigLIP, arXiv 2303.15343).

Enters: uint8 images and token ids. Leaves: unit-norm embeddings of both, and the loss's scale t and bias β.
Both encoders are pre-norm transformers with tanh-GELU and learned positions. Parameters and arithmetic are those of
big_vision's `two_towers`, whose checkpoints `trainer.big_vision` reads.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from schemas.errors import ConfigError
from trainer import flexi
from trainer.presets import Encoder, Preset

_LAYER_NORM_EPSILON = 1e-6
# One object each, so that two builds of a model have equal graph definitions and share a compiled step.
_XAVIER = nnx.initializers.xavier_uniform()
_LECUN = nnx.initializers.lecun_normal()
_TINY_BIAS = nnx.initializers.normal(1e-6)
_INITIAL_SCALE = 10.0
_INITIAL_BIAS = -10.0


class Mlp(nnx.Module):
    """Two linear maps with a GELU between."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(width, hidden, kernel_init=_XAVIER, bias_init=_TINY_BIAS, rngs=rngs)
        self.down = nnx.Linear(hidden, width, kernel_init=_XAVIER, bias_init=_TINY_BIAS, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


def _attention(width: int, heads: int, rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(num_heads=heads, in_features=width, kernel_init=_XAVIER, decode=False, rngs=rngs)


class Block(nnx.Module):
    """One encoder block: x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, encoder: Encoder, *, rngs: nnx.Rngs):
        self.norm_attention = nnx.LayerNorm(encoder.width, epsilon=_LAYER_NORM_EPSILON, rngs=rngs)
        self.attention = _attention(encoder.width, encoder.heads, rngs)
        self.norm_mlp = nnx.LayerNorm(encoder.width, epsilon=_LAYER_NORM_EPSILON, rngs=rngs)
        self.mlp = Mlp(encoder.width, encoder.mlp, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nnx.Module):
    """`depth` blocks and a final norm."""

    def __init__(self, encoder: Encoder, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(encoder, rngs=rngs) for _ in range(encoder.depth)])
        self.norm = nnx.LayerNorm(encoder.width, epsilon=_LAYER_NORM_EPSILON, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class AttentionPool(nnx.Module):
    """The MAP head: one learned query attends to all tokens, then a residual MLP."""

    def __init__(self, encoder: Encoder, *, rngs: nnx.Rngs):
        self.probe = nnx.Param(_XAVIER(rngs.params(), (1, encoder.width))[None])
        self.attention = _attention(encoder.width, encoder.heads, rngs)
        self.norm = nnx.LayerNorm(encoder.width, epsilon=_LAYER_NORM_EPSILON, rngs=rngs)
        self.mlp = Mlp(encoder.width, encoder.mlp, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch width"]:
        probe = jnp.broadcast_to(self.probe[...], (x.shape[0], 1, x.shape[-1]))
        pooled = self.attention(probe, x)
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class ImageTower(nnx.Module):
    """ViT: patches, positions, encoder, attention pooling, and a projection if the preset has one.

    The parameters are those of the preset's patch size; a call with another resizes kernel and positions to it.
    """

    def __init__(self, preset: Preset, resolution: int, *, rngs: nnx.Rngs):
        width, patch = preset.image.width, preset.patch_size
        self.patch_size = patch
        self.patches = nnx.Linear(
            patch * patch * 3, width, kernel_init=_LECUN, rngs=rngs
        )  # a convolution with stride = kernel, as one matrix product
        tokens = _grid(resolution, patch) ** 2
        self.positions = nnx.Param(nnx.initializers.normal(1 / np.sqrt(width))(rngs.params(), (1, tokens, width)))
        self.encoder = Transformer(preset.image, rngs=rngs)
        self.pool = AttentionPool(preset.image, rngs=rngs)
        self.head = nnx.Linear(width, preset.embedding, kernel_init=_LECUN, rngs=rngs) if preset.image_head else None

    def __call__(
        self, images: UInt8[Array, "batch height width 3"], patch_size: int | None = None
    ) -> Float[Array, "batch embedding"]:
        batch, resolution, _, _ = images.shape
        p = patch_size or self.patch_size
        grid = _grid(resolution, p)
        kernel, bias = self.patches.kernel[...], self.patches.bias
        x = (images.astype(jnp.float32) / 127.5 - 1).astype(kernel.dtype)
        x = x.reshape(batch, grid, p, grid, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(batch, grid * grid, p * p * 3)
        x = x @ flexi.resize_kernel(kernel, p) + (0 if bias is None else bias[...])
        x = self.pool(self.encoder(x + flexi.resize_positions(self.positions[...], grid)))
        return x if self.head is None else self.head(x)


def _grid(resolution: int, patch_size: int) -> int:
    if resolution % patch_size:
        below = resolution // patch_size * patch_size
        raise ConfigError(
            f"resolution {resolution} is not a multiple of the patch size {patch_size}: choose "
            f"{f'{below} or ' if below else ''}{below + patch_size}"
        )
    return resolution // patch_size


class TextTower(nnx.Module):
    """Token embedding, positions, encoder, the last token (always an end mark), projection."""

    def __init__(self, preset: Preset, vocabulary: int, *, rngs: nnx.Rngs):
        width = preset.text.width
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)  # normal, standard deviation 1/√width
        self.positions = nnx.Param(nnx.initializers.normal(0.01)(rngs.params(), (1, preset.text_length, width)))
        self.encoder = Transformer(preset.text, rngs=rngs)
        self.head = nnx.Linear(width, preset.embedding, kernel_init=_LECUN, rngs=rngs)

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch embedding"]:
        x = self.encoder(self.tokens(tokens) + self.positions[...])
        return self.head(x[:, -1])


class TwoTowers(nnx.Module):
    """The model: both towers, and SigLIP's learned temperature and bias."""

    def __init__(self, preset: Preset, resolution: int, vocabulary: int, *, rngs: nnx.Rngs):
        self.image = ImageTower(preset, resolution, rngs=rngs)
        self.text = TextTower(preset, vocabulary, rngs=rngs)
        self.log_scale = nnx.Param(jnp.log(jnp.asarray(_INITIAL_SCALE, jnp.float32)))
        self.bias = nnx.Param(jnp.asarray(_INITIAL_BIAS, jnp.float32))

    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        tokens: Int[Array, "batch length"],
        patch_size: int | None = None,
    ) -> tuple[Float[Array, "batch embedding"], Float[Array, "batch embedding"]]:
        """Returns the unit-norm embeddings of both; the images seen in patches of `patch_size`, or the preset's."""
        return self.embed_images(images, patch_size), self.embed_texts(tokens)

    def embed_images(
        self, images: UInt8[Array, "batch height width 3"], patch_size: int | None = None
    ) -> Float[Array, "batch embedding"]:
        """Returns the unit-norm embeddings of images alone."""
        return _unit(self.image(images, patch_size))

    def embed_texts(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch embedding"]:
        """Returns the unit-norm embeddings of texts alone."""
        return _unit(self.text(tokens))


def _unit(x: Float[Array, "batch embedding"]) -> Float[Array, "batch embedding"]:
    x = x.astype(jnp.float32)  # whatever the encoders compute in
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-8)
