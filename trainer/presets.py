"""Model sizes by name. Enters: a preset name. Leaves: the widths and depths of both towers.

`nano` and `tiny` learn on two CPU cores, the first in the hundreds of runs of a study; the others have the shapes of
the SigLIP models (arXiv 2303.15343, and arXiv 2305.13035 for So400m).
"""

from dataclasses import dataclass

from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A pre-norm transformer encoder: width in features, depth in blocks."""

    width: int
    depth: int
    heads: int
    mlp: int


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Both towers' shapes, and the inputs they were made for."""

    image: Encoder
    text: Encoder
    patch_size: int  # pixels
    resolution: int  # pixels a side
    text_length: int  # tokens
    vocabulary: int  # the size of a tokenizer trained for this preset
    embedding: int  # width of the shared space
    image_head: bool = False  # a linear map after the image tower's pooling; SigLIP has none


def _symmetric(encoder: Encoder, patch_size: int) -> Preset:
    return Preset(
        image=encoder, text=encoder, patch_size=patch_size, resolution=224,
        text_length=64, vocabulary=32_000, embedding=encoder.width,
    )  # fmt: skip


PRESETS: dict[str, Preset] = {
    "nano": Preset(
        image=Encoder(width=64, depth=2, heads=2, mlp=256),
        text=Encoder(width=64, depth=1, heads=2, mlp=256),
        patch_size=16, resolution=64, text_length=16, vocabulary=2_048, embedding=64, image_head=True,
    ),
    "tiny": Preset(
        image=Encoder(width=128, depth=3, heads=4, mlp=512),
        text=Encoder(width=128, depth=2, heads=4, mlp=512),
        patch_size=16, resolution=64, text_length=16, vocabulary=4_096, embedding=128, image_head=True,
    ),
    "S/16": _symmetric(Encoder(width=384, depth=12, heads=6, mlp=1536), 16),
    "B/16": _symmetric(Encoder(width=768, depth=12, heads=12, mlp=3072), 16),
    "L/16": _symmetric(Encoder(width=1024, depth=24, heads=16, mlp=4096), 16),
    "So400m/14": _symmetric(Encoder(width=1152, depth=27, heads=16, mlp=4304), 14),
}  # fmt: skip


def get(name: str) -> Preset:
    """Returns a preset.

    Raises:
      ConfigError: there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}; it must be one of {', '.join(PRESETS)}")
    return PRESETS[name]
