"""One step of training: score → select → update.

Enters: the learner's state and the candidates of a super-batch. Leaves: the next state, the picks, and the numbers
worth logging. Everything is one jitted program; its parts below read in the order in which they happen.

Flexi-JEST (arXiv 2406.17711, §3.3) scores in coarse patches, at a quarter of the tokens, and learns half of the
sub-batch coarse and half fine, so that the learner stays good at both.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from schemas.selections import QUANTILE_LEVELS
from trainer.config import Optimisation, Scoring
from trainer.losses import contrastive_loss
from trainer.model import embed_pairs
from trainer.selection import PairEmbeddings, Picks, SelectionConfig, pair_scores, select


class TrainState(NamedTuple):
    """Everything that changes from step to step."""

    step: Int[Array, ""]
    parameters: Any
    optimiser: Any


class Scored(NamedTuple):
    """What the selection of one step leaves behind for the log."""

    picks: Picks
    finite: Bool[Array, ""]  # every valid candidate has a finite score
    score_quantiles: Float[Array, "levels"]  # of S_jj over the valid candidates
    learnability_kept: Float[Array, ""]  # mean of learner nll − reference nll, nats
    learnability_passed: Float[Array, ""]


def optimiser(config: Optimisation) -> optax.GradientTransformation:
    """AdamW with linear warm-up, cosine decay and gradient clipping; matrices decay, vectors do not."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, max(config.steps, config.warmup_steps + 1)
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b2=0.95),
        optax.add_decayed_weights(config.weight_decay, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
        optax.scale_by_learning_rate(schedule),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def distill_step(
    graph: Any,
    config: Optimisation,
    selection: SelectionConfig,
    scoring: Scoring,
    state: TrainState,
    key: PRNGKeyArray,
    image: UInt8[Array, "superbatch height width 3"],
    tokens: Int[Array, "superbatch length"],
    reference: PairEmbeddings,
    valid: Bool[Array, "superbatch"],
) -> tuple[TrainState, Float[Array, ""], Scored]:
    """Scores the candidates, selects a sub-batch and learns from it; returns (state, loss, what was selected).

    The key is the run's; the noise of a step is drawn from `fold_in(key, step)`.
    """
    learner = _score(graph, state.parameters, image, tokens, scoring)
    picks = select(jax.random.fold_in(key, state.step), learner, reference, selection, valid=valid)
    scored = _describe(learner, reference, selection, picks, valid)
    state, loss = _update(graph, config, state, image[picks.index], tokens[picks.index], scoring.coarse_patch)
    return state, loss, scored


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def uniform_step(
    graph: Any,
    config: Optimisation,
    state: TrainState,
    image: UInt8[Array, "batch height width 3"],
    tokens: Int[Array, "batch length"],
) -> tuple[TrainState, Float[Array, ""]]:
    """Learns from every example of a batch; returns (state, loss)."""
    return _update(graph, config, state, image, tokens)


def _score(graph: Any, parameters: Any, image: Array, tokens: Array, scoring: Scoring) -> PairEmbeddings:
    """Embeds the whole super-batch, a few candidates at a time, so that activations stay small."""
    candidates = image.shape[0]
    batch = min(scoring.batch, candidates)
    padding = -candidates % batch  # the last batch is filled up with zeros, and cut off again

    def in_batches(array: Array) -> Array:
        padded = jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(-1, batch, *array.shape[1:])

    pairs: PairEmbeddings = jax.lax.map(
        lambda piece: embed_pairs(graph, parameters, *piece, scoring.coarse_patch),
        (in_batches(image), in_batches(tokens)),
    )
    image, text = (a.reshape(-1, a.shape[-1])[:candidates] for a in (pairs.image, pairs.text))
    return PairEmbeddings(image, text, pairs.scale[0], pairs.bias[0])


def _update(
    graph: Any, config: Optimisation, state: TrainState, image: Array, tokens: Array, coarse_patch: int | None = None
):
    def loss_of(parameters: Any) -> Float[Array, ""]:
        if coarse_patch is None:
            return contrastive_loss(embed_pairs(graph, parameters, image, tokens), config.loss)
        # Every other pick, since picks stand in drawing order and both halves are to be alike.
        fine = embed_pairs(graph, parameters, image[::2], tokens[::2])
        coarse = embed_pairs(graph, parameters, image[1::2], tokens[1::2], coarse_patch)
        both = [jnp.concatenate(halves) for halves in zip(fine[:2], coarse[:2], strict=True)]
        return contrastive_loss(PairEmbeddings(both[0], both[1], fine.scale, fine.bias), config.loss)

    loss, gradients = jax.value_and_grad(loss_of)(state.parameters)
    updates, moments = optimiser(config).update(gradients, state.optimiser, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    return TrainState(state.step + 1, parameters, moments), loss


def _describe(
    learner: PairEmbeddings, reference: PairEmbeddings, config: SelectionConfig, picks: Picks, valid: Array
) -> Scored:
    own, nll_learner, nll_reference = pair_scores(learner, reference, config)
    kept = jnp.zeros(valid.shape, bool).at[picks.index].set(True)
    learnability = nll_learner - nll_reference
    levels = jnp.asarray(QUANTILE_LEVELS, own.dtype)
    return Scored(
        picks=picks,
        finite=jnp.all(jnp.isfinite(own) | ~valid),
        score_quantiles=jnp.nanquantile(jnp.where(valid, own, jnp.nan), levels),
        learnability_kept=jnp.mean(learnability, where=kept),
        learnability_passed=jnp.mean(learnability, where=valid & ~kept),
    )


def initial_state(parameters: Any, config: Optimisation) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), parameters, optimiser(config).init(parameters))
