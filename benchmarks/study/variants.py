"""Other ways of drawing a sub-batch, tried and measured; none is part of the product.

The published form over B × B matrices, with its scores changed before they are drawn from:

    normalised   S / σ, with σ the standard deviation of the candidates' own scores: the gain no longer depends on how
                 far apart the learner's and the reference's losses are
    clipped      each S_ij within ±3 nats: no single pair decides
    mixed        a quarter of the sub-batch is drawn uniformly from what the other three quarters left over
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from schemas.errors import ConfigError
from trainer.selection import PairEmbeddings, SelectionConfig
from trainer.step import Candidates, Program, score

Variant = Literal["", "normalised", "clipped", "mixed"]
_LIMIT = 3.0  # nats
_UNIFORM = 0.25  # of a mixed sub-batch


def check(variant: str) -> None:
    """Raises ConfigError unless there is a variant of this name; the empty one is the product's own."""
    if variant not in get_args(Variant):
        raise ConfigError(f"variant is {variant!r}; it must be one of {', '.join(map(repr, get_args(Variant)))}")


@functools.partial(jax.jit, static_argnums=(0, 1))
def pick(
    program: Program, variant: Variant, parameters: object, key: PRNGKeyArray, candidates: Candidates
) -> tuple[Int[Array, "subbatch"], Float[Array, "superbatch"]]:
    """Scores the candidates and draws; returns the picks, and every candidate's own learnability before any change."""
    learner = score(program, parameters, candidates)
    scores = _losses(learner) - _losses(candidates.reference)
    return draw(key, scores, program.selection, candidates.valid, variant), jnp.diagonal(scores)


def draw(
    key: PRNGKeyArray,
    scores: Float[Array, "superbatch superbatch"],
    config: SelectionConfig,
    valid: Bool[Array, "superbatch"],
    variant: Variant,
) -> Int[Array, "subbatch"]:
    """Draws a sub-batch, chunk by chunk; with the variant "" the very picks of `trainer.selection.select`."""
    size = config.subbatch_size(len(scores))
    joint = size - round(_UNIFORM * size) if variant == "mixed" else size
    if variant == "normalised":
        scores = scores / jnp.std(jnp.diagonal(scores), where=valid)
    if variant == "clipped":
        scores = jnp.clip(scores, -_LIMIT, _LIMIT)
    both, picked, drawn = scores + scores.T, jnp.zeros(len(scores), bool), []
    counts = [joint // config.chunks + (c < joint % config.chunks) for c in range(config.chunks)]
    for chunk, count in enumerate([*counts, size - joint]):
        if count:
            logits = jnp.diagonal(scores) + both @ picked if chunk < config.chunks else jnp.zeros(len(scores))
            noise = jax.random.gumbel(jax.random.fold_in(key, chunk), (len(scores),), jnp.float32)
            index = jax.lax.top_k(jnp.where(valid & ~picked, config.gain * logits + noise, -jnp.inf), count)[1]
            picked = picked.at[index].set(True)
            drawn.append(index)
    return jnp.concatenate(drawn)


def _losses(pairs: PairEmbeddings) -> Float[Array, "superbatch superbatch"]:
    """ℓ_ij of the sigmoid loss."""
    logits = pairs.scale * pairs.image @ pairs.text.T + pairs.bias
    return jax.nn.softplus(-(2 * jnp.eye(len(logits)) - 1) * logits)
