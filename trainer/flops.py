"""How much arithmetic a run costs, by the paper's accounting (JEST, arXiv 2406.17711, §4 and appendix).

A forward pass of an example costs F, learning from it 3F (forward, and twice that backward), a cached reference score
nothing. F counts the multiplications and additions of the matrix products: norms, softmax, GELU, the draw and resizing
a kernel once a batch are small beside them. With filter ratio f a JEST step costs F/(1 − f) + 3F for each example it
learns from; at f = 0.8 that is 267 % of a uniform step.

Beside it stands what XLA's cost analysis says of the step's programs, which leaves nothing out, the draw included.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from trainer.config import DistillConfig, TrainConfig
from trainer.model import Architecture, embed_pairs
from trainer.parallel import Layout
from trainer.presets import Encoder, Preset, get
from trainer.selection import PairEmbeddings, select
from trainer.step import Part, Program, divide, initial_state, learn_step


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one step, on all devices together."""

    counted: int  # by the paper's accounting
    measured: int  # by XLA's cost analysis


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
    inputs = preset, architecture.resolution, architecture.text_length or preset.text_length
    if not isinstance(config, DistillConfig):
        return of_batch(*inputs, config.batch_size)
    return of_batch(*inputs, config.batch_size, config.superbatch_size, config.scoring.coarse_patch)


def of_batch(
    preset: Preset, resolution: int, text_length: int, learned: int, scored: int = 0, coarse_patch: int | None = None
) -> int:
    """The floating-point operations of learning from some pairs, after scoring others.

    With a coarse patch, that is how candidates and every other learned pair are seen (Flexi-JEST).
    """
    fine, coarse = (forward(preset, resolution, text_length, patch) for patch in (None, coarse_patch))
    return coarse * scored + 3 * (fine * ((learned + 1) // 2) + coarse * (learned // 2))


def measured_step(config: TrainConfig, program: Program, architecture: Architecture, reference_width: int = 0) -> int:
    """The floating-point operations of one step by XLA's cost analysis of its programs; nothing is compiled or run.

    XLA counts the body of a loop once, however often it runs. So the parts are analysed one by one: a batch of scoring,
    one chunk of the selection, and the update.
    """
    graph, parameters = architecture.shapes()
    program = dataclasses.replace(program, layout=Layout())

    def pixels_and_tokens(rows: int, pixels: int) -> tuple[Any, Any]:
        length = architecture.text_length or get(architecture.preset).text_length
        return _shape((rows, pixels, pixels, 3), jnp.uint8), _shape((rows, length), jnp.int32)

    state = jax.eval_shape(lambda p: initial_state(p, config.optimisation), parameters)
    subbatch = divide(program.scoring, range(config.batch_size))
    parts = [Part(*pixels_and_tokens(len(picks), architecture.resolution)) for picks in subbatch]
    update = _flops(learn_step.lower(program, state, parts))
    if not isinstance(config, DistillConfig):
        return update
    batch = min(program.scoring.batch, config.superbatch_size)
    scored = pixels_and_tokens(batch, config.scored_pixels)
    score = _flops(embed_pairs.lower(graph, parameters, *scored, program.scoring.patch, program.dtype))
    return round(score * config.superbatch_size / batch) + _selection(config, architecture, reference_width) + update


def _selection(config: DistillConfig, architecture: Architecture, reference_width: int) -> int:
    def pairs(width: int) -> PairEmbeddings:
        shapes = [(config.superbatch_size, width)] * 2 + [()] * 2
        return PairEmbeddings._make(_shape(shape, jnp.float32) for shape in shapes)

    def of(**changes: Any) -> int:
        changed = dataclasses.replace(config.selection, **changes)
        program = jax.jit(lambda key, learner, reference: select(key, learner, reference, changed))
        learner = pairs(get(architecture.preset).embedding)
        return _flops(program.lower(jax.eval_shape(lambda: jax.random.key(0)), learner, pairs(reference_width)))

    without_chunks = of(joint=False)
    if not config.joint or config.chunks == 1:
        return without_chunks
    # Chunks of two sizes, where the sub-batch does not divide equally, are two loops.
    loops = 1 if config.batch_size % config.chunks in (0, config.chunks - 1) else 2
    chunk = (of() - without_chunks) / loops
    return round(without_chunks + (config.chunks - 1) * chunk)


def _flops(lowered: Any) -> int:
    return round((lowered.cost_analysis() or {}).get("flops", 0))


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _encoder(encoder: Encoder, tokens: int) -> int:
    """Multiplications: four projections, scores and their weighted sum, two layers of the MLP; for every block."""
    projections, attention = 4 * tokens * encoder.width**2, 2 * tokens**2 * encoder.width
    return encoder.depth * (projections + attention + 2 * tokens * encoder.width * encoder.mlp)


def _pool(encoder: Encoder, tokens: int) -> int:
    """The MAP head: one query, its attention to every token, and an MLP."""
    projections = 2 * encoder.width**2 + 2 * tokens * encoder.width**2
    return projections + 2 * tokens * encoder.width + 2 * encoder.width * encoder.mlp
