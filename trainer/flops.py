"""How much arithmetic a run costs, by the paper's accounting (JEST, arXiv 2406.17711, §4 and appendix).

A forward pass of an example costs F, learning from it 3F (forward, and twice that backward), a cached reference score
nothing. F counts the multiplications and additions of the matrix products: norms, softmax, GELU, the draw and resizing
a kernel once a batch are small beside them. With filter ratio f a JEST step costs F/(1 − f) + 3F for each example it
learns from; at f = 0.8 that is 267 % of a uniform step.
"""

from trainer.config import DistillConfig, TrainConfig
from trainer.model import Architecture
from trainer.presets import Encoder, Preset, get


def forward(preset: Preset, resolution: int, text_length: int, patch_size: int | None = None) -> int:
    """F: the operations that embed one pair, its image in patches of `patch_size` or the preset's own."""
    patch = patch_size or preset.patch_size
    tokens, width = (resolution // patch) ** 2, preset.image.width
    image = tokens * patch * patch * 3 * width + _encoder(preset.image, tokens) + _pool(preset.image, tokens)
    text = _encoder(preset.text, text_length) + preset.text.width * preset.embedding
    return 2 * (image + (width * preset.embedding if preset.image_head else 0) + text)


def step(config: TrainConfig, architecture: Architecture) -> int:
    """The floating-point operations of one step."""
    preset = get(architecture.preset)
    length = architecture.text_length or preset.text_length
    fine = forward(preset, architecture.resolution, length)
    if not isinstance(config, DistillConfig):
        return 3 * fine * config.batch_size
    coarse = forward(preset, architecture.resolution, length, config.scoring.coarse_patch)
    halves = (config.batch_size + 1) // 2, config.batch_size // 2  # fine and coarse; without Flexi-JEST both are fine
    return coarse * config.superbatch_size + 3 * (fine * halves[0] + coarse * halves[1])


def _encoder(encoder: Encoder, tokens: int) -> int:
    """Multiplications: four projections, scores and their weighted sum, two layers of the MLP; for every block."""
    projections, attention = 4 * tokens * encoder.width**2, 2 * tokens**2 * encoder.width
    return encoder.depth * (projections + attention + 2 * tokens * encoder.width * encoder.mlp)


def _pool(encoder: Encoder, tokens: int) -> int:
    """The MAP head: one query, its attention to every token, and an MLP."""
    projections = 2 * encoder.width**2 + 2 * tokens * encoder.width**2
    return projections + 2 * tokens * encoder.width + 2 * encoder.width * encoder.mlp
