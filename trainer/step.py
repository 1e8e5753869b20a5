"""One step of training: score → select → update.

Enters: the learner's state and the candidates of a super-batch. Leaves: the next state, the picks, and the numbers
worth logging. `distill_step` is all of it in one jitted program; its parts below read in the order in which they
happen. Where candidates are decoded smaller than what is learned from, the picks have to be decoded in between, and
`pick_step` and `learn_step` are its two halves.

Flexi-JEST (arXiv 2406.17711, §3.3) scores in coarse patches, at a quarter of the tokens, and learns half of the
sub-batch coarse and half fine, so that the learner stays good at both.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from schemas.errors import ConfigError
from schemas.selections import QUANTILE_LEVELS
from trainer.config import Optimisation, Scoring
from trainer.losses import contrastive_loss
from trainer.model import embed_pairs
from trainer.parallel import Layout
from trainer.selection import PairEmbeddings, Picks, SelectionConfig, pair_scores, select


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What the program of a step depends on beside its inputs; static. Runs that agree share a compiled step."""

    graph: Any  # of the towers
    optimisation: Optimisation
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    scoring: Scoring = dataclasses.field(default_factory=Scoring)
    layout: Layout = dataclasses.field(default_factory=Layout)
    dtype: str = "float32"  # of the towers' arithmetic; parameters, losses and scores are float32

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype is {self.dtype!r}; it must be float32 or bfloat16")


class TrainState(NamedTuple):
    """Everything that changes from step to step."""

    step: Int[Array, ""]
    parameters: Any
    optimiser: Any


class Candidates(NamedTuple):
    """A super-batch on its devices, which hold equal shares of it."""

    image: UInt8[Array, "superbatch height width 3"]  # at scoring resolution
    tokens: Int[Array, "superbatch length"]
    uid: UInt8[Array, "superbatch 16"]
    valid: Bool[Array, "superbatch"]
    reference: PairEmbeddings


class Scored(NamedTuple):
    """What the selection of one step leaves behind; every device has all of it."""

    picks: Picks
    uid: UInt8[Array, "subbatch 16"]
    usable: Int[Array, ""]  # valid candidates
    finite: Bool[Array, ""]  # every valid candidate has a finite score
    score_quantiles: Float[Array, "levels"]  # of S_jj over the valid candidates
    learnability_kept: Float[Array, ""]  # mean of learner nll − reference nll, nats
    learnability_passed: Float[Array, ""]


class Part(NamedTuple):
    """What an update learns from: a sub-batch, or the fine or the coarse half of one."""

    image: UInt8[Array, "part height width 3"]
    tokens: Int[Array, "part length"]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def distill_step(
    program: Program, state: TrainState, key: PRNGKeyArray, candidates: Candidates
) -> tuple[TrainState, Float[Array, ""], Scored]:
    """Scores the candidates, selects a sub-batch and learns from it; returns (state, loss, what was selected).

    The key is the run's; the noise of a step is drawn from `fold_in(key, step)`.
    """
    scored = _pick(program, state, key, candidates)
    take = functools.partial(program.layout.take, candidates.image)
    parts = [Part(take(index), tokens) for index, tokens in _parts(program, candidates, scored.picks.index)]
    state, loss = _update(program, state, parts)
    return state, loss, scored


@functools.partial(jax.jit, static_argnums=0)
def pick_step(
    program: Program, state: TrainState, key: PRNGKeyArray, candidates: Candidates
) -> tuple[Scored, list[Int[Array, "part length"]]]:
    """The first half of a step: returns what was selected, and the tokens of every part of the sub-batch."""
    scored = _pick(program, state, key, candidates)
    return scored, [tokens for _, tokens in _parts(program, candidates, scored.picks.index)]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def learn_step(
    program: Program, state: TrainState, parts: list[Part], weight: Float[Array, "subbatch"] | None = None
) -> tuple[TrainState, Float[Array, ""]]:
    """The second half of a step, and all of it where nothing is selected; returns (state, loss).

    The second part, if there is one, is seen in coarse patches. The weights are those of all examples, in order.
    """
    return _update(program, state, parts, weight)


# --- Score ------------------------------------------------------------------------------------------------------------


def score(program: Program, parameters: Any, candidates: Candidates) -> PairEmbeddings:
    """Embeds the whole super-batch, a few candidates at a time, so that activations stay small."""
    layout, scoring = program.layout, program.scoring
    pairs: PairEmbeddings = jax.lax.map(
        lambda piece: embed_pairs(program.graph, parameters, *piece, scoring.patch, program.dtype),
        tuple(layout.in_batches(array, scoring.batch) for array in (candidates.image, candidates.tokens)),
    )
    image, text = (layout.from_batches(a, len(candidates.image)) for a in (pairs.image, pairs.text))
    return PairEmbeddings(image, text, pairs.scale[0], pairs.bias[0])


# --- Select -----------------------------------------------------------------------------------------------------------


def _pick(program: Program, state: TrainState, key: PRNGKeyArray, candidates: Candidates) -> Scored:
    layout, config, valid = program.layout, program.selection, candidates.valid
    learner, reference = score(program, state.parameters, candidates), candidates.reference
    key = jax.random.fold_in(key, state.step)
    picks = select(key, learner, reference, config, valid=valid, mesh=layout.mesh)
    own, nll_learner, nll_reference = pair_scores(learner, reference, config)
    kept = jnp.zeros(valid.shape, bool).at[picks.index].set(True)
    learnability = nll_learner - nll_reference
    levels = jnp.asarray(QUANTILE_LEVELS, own.dtype)
    scored = Scored(
        picks=picks,
        uid=candidates.uid[picks.index],
        usable=valid.sum(),
        finite=jnp.all(jnp.isfinite(own) | ~valid),
        score_quantiles=jnp.nanquantile(jnp.where(valid, own, jnp.nan), levels),
        learnability_kept=jnp.mean(learnability, where=kept),
        learnability_passed=jnp.mean(learnability, where=valid & ~kept),
    )
    return layout.whole(scored)


def _parts(program: Program, candidates: Candidates, index: Int[Array, "subbatch"]) -> list[tuple[Array, Array]]:
    """The parts of the sub-batch, as (their picks, their tokens)."""
    return [(part, program.layout.take(candidates.tokens, part)) for part in divide(program.scoring, index)]


def divide(scoring: Scoring, picks: Any) -> list[Any]:
    """The parts that are learned from: all picks, or for Flexi-JEST those seen fine and those seen coarse.

    Every other pick is seen coarse, since picks stand in drawing order and both halves are to be alike.
    """
    return [picks] if scoring.coarse_patch is None else [picks[::2], picks[1::2]]


# --- Update -----------------------------------------------------------------------------------------------------------


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


def initial_state(parameters: Any, config: Optimisation) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), parameters, optimiser(config).init(parameters))


def _update(
    program: Program, state: TrainState, parts: list[Part], weight: Float[Array, "subbatch"] | None = None
) -> tuple[TrainState, Float[Array, ""]]:
    layout, config = program.layout, program.optimisation
    patches = [None, program.scoring.coarse_patch]

    def loss_of(parameters: Any) -> Float[Array, ""]:
        embedded = [
            embed_pairs(program.graph, parameters, *layout.split(part), patch, program.dtype)
            for part, patch in zip(parts, patches, strict=False)
        ]
        image, text = (jnp.concatenate(both) for both in zip(*(pairs[:2] for pairs in embedded), strict=True))
        pairs = PairEmbeddings(image, text, embedded[0].scale, embedded[0].bias)
        return contrastive_loss(pairs, config.loss, weight)

    loss, gradients = jax.value_and_grad(loss_of)(state.parameters)
    updates, moments = optimiser(config).update(gradients, state.optimiser, state.parameters)
    state = TrainState(state.step + 1, optax.apply_updates(state.parameters, updates), moments)
    return layout.parameters(state), layout.whole(loss)
