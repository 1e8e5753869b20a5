"""Trains a model of the study with the trainer's own steps, its data in memory.

What is scored, selected and learned is `trainer.step`, as in `superbatch distill`; reading, logging and checkpoints are
left out, since a run takes a minute.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.study import variants
from benchmarks.study.corpora import PIXELS, Pairs
from benchmarks.study.runs import BLOCK, CLIP_NORM, COARSE_PATCH, TOWERS, WARMUP_STEPS, WEIGHT_DECAY, Learner
from trainer import flops
from trainer.augment import augment
from trainer.config import Optimisation, Scoring
from trainer.data import Blocks
from trainer.evaluate import retrieval
from trainer.model import embed_pairs
from trainer.selection import PairEmbeddings
from trainer.step import Candidates, Part, Program, TrainState, distill_step, initial_state, learn_step
from trainer.towers import TwoTowers

_EMBED = 256  # rows at a time
_SCORED = 160  # candidates at a time


class Towers(NamedTuple):
    """A model: what is static of it, and its parameters."""

    graph: Any
    parameters: Any


class Embedded(NamedTuple):
    """Pairs as a model embeds them, on the host."""

    image: np.ndarray  # float32 [n, d], unit norm
    text: np.ndarray  # float32 [n, d], unit norm
    scale: float
    bias: float

    def rows(self, rows: np.ndarray) -> PairEmbeddings:
        """Some of them, on the device."""
        image, text, scale, bias = map(jnp.asarray, (self.image[rows], self.text[rows], self.scale, self.bias))
        return PairEmbeddings(image, text, scale, bias)


class Observed(NamedTuple):
    """What one step leaves to look at."""

    loss: float  # nats, of the examples learned from
    matched: float  # share of true captions among them
    kept: float = 0.0  # mean learnability of the picks, nats; 0 for a uniform learner
    passed: float = 0.0  # and of what was passed over


class Point(NamedTuple):
    """A moment of a run, after `step` updates."""

    step: int
    recall: dict[str, float]  # trainer.evaluate.retrieval's
    loss: float  # nats, of the step's examples
    matched: float  # share of true captions among the examples learned from since the point before
    kept: float  # mean learnability of the picks since then, nats; 0 for a uniform learner
    passed: float  # and of what was passed over


@dataclass
class Trained:
    """A finished run."""

    towers: Towers
    curve: list[Point]
    operations: int  # of one step, by the paper's accounting
    seconds: float
    visits: np.ndarray | None = None  # int [pool]: how often each row was picked
    offers: np.ndarray | None = None  # int [pool]: how often each row was a candidate
    conditional: np.ndarray | None = None  # float [pool]: mean logit when picked


def build(vocabulary: int, seed: int) -> Towers:
    """Makes the towers with fresh parameters."""
    towers = TwoTowers(TOWERS, PIXELS, vocabulary, rngs=nnx.Rngs(jax.random.key(seed)))
    graph, parameters, _ = nnx.split(towers, nnx.Param, ...)
    return Towers(graph, parameters)


def embed(towers: Towers, pairs: Pairs) -> Embedded:
    """Embeds every pair, in batches of one size."""

    def batch(first: int) -> PairEmbeddings:
        image, tokens = pairs.image[first : first + _EMBED], pairs.tokens[first : first + _EMBED]
        missing = _EMBED - len(image)
        image = np.pad(image, [(0, missing), (0, 0), (0, 0), (0, 0)])
        return embed_pairs(*towers, image, np.pad(tokens, [(0, missing), (0, 0)]))

    batches = [jax.device_get(batch(first)) for first in range(0, len(pairs), _EMBED)]
    image, text = (np.concatenate([embedded[side] for embedded in batches])[: len(pairs)] for side in (0, 1))
    return Embedded(image, text, float(batches[0].scale), float(batches[0].bias))


def evaluate(towers: Towers, pairs: Pairs) -> dict[str, float]:
    """Recall at 1, 5 and 10, both ways, on clean pairs."""
    embedded = embed(towers, pairs)
    pictures, first = np.unique(pairs.picture, return_index=True)
    return retrieval(embedded.image[first], embedded.text, np.searchsorted(pictures, pairs.picture))


def evaluated_steps(steps: int) -> list[int]:
    """After which steps a run is evaluated: ten, then a quarter more each time, and the last."""
    found, at = [], 10.0
    while at < steps:
        found.append(round(at))
        at *= 1.25
    return [*found, steps]


def operations(learner: Learner) -> int:
    """Floating-point operations of one of its steps, by the paper's accounting (`trainer.flops`).

    The reference's scores are cached; who goes by them alone does not have to embed the candidates.
    """
    scored = 0 if learner.criterion in ("uniform", "easy_reference") else learner.superbatch
    coarse = COARSE_PATCH if learner.flexi else None
    return flops.of_batch(TOWERS, PIXELS, TOWERS.text_length, learner.subbatch, scored, coarse)


def train_uniformly(
    pairs: Pairs, evaluation: Pairs, *, vocabulary: int, seed: int, steps: int, batch_size: int,
    learning_rate: float, initial: int, augmented: bool = False,
) -> Trained:  # fmt: skip
    """Trains on all pairs alike; `initial` decides the first parameters, and `seed` everything else."""
    towers = build(vocabulary, initial)
    program = Program(graph=towers.graph, optimisation=_optimisation(steps, learning_rate))
    blocks = Blocks(len(pairs), BLOCK, batch_size // BLOCK, seed, rotate=True)

    def step(state: TrainState, number: int) -> tuple[TrainState, Observed]:
        rows = blocks.rows_of_step(number)
        image = pairs.image[rows]
        if augmented:
            image = augment(image, np.random.default_rng([seed, number]))
        state, loss = learn_step(program, state, [Part(jnp.asarray(image), jnp.asarray(pairs.tokens[rows]))])
        return state, Observed(float(loss), float(pairs.matched[rows].mean()))

    trained = _run(towers, program, steps, evaluation, step)
    trained.operations = flops.of_batch(TOWERS, PIXELS, TOWERS.text_length, batch_size)
    return trained


def train_selectively(
    pool: Pairs, evaluation: Pairs, reference: Embedded, learner: Learner, *, vocabulary: int, steps: int
) -> Trained:
    """Trains on picked sub-batches, and counts the picks.

    Args:
      pool: what is picked from.
      evaluation: clean pairs of other pictures.
      reference: its embeddings of the pool, row by row.
      learner: how to pick.
      vocabulary: of the tokens.
      steps: updates.
    """
    towers = build(vocabulary, learner.seed)
    coarse = COARSE_PATCH if learner.flexi else None
    program = Program(
        graph=towers.graph, optimisation=_optimisation(steps, learner.rate), selection=learner.selection,
        scoring=Scoring(batch=_SCORED, patch=coarse, coarse_patch=coarse),
    )  # fmt: skip
    blocks = Blocks(len(pool), BLOCK, learner.superbatch // BLOCK, learner.seed)
    key = jax.random.key(learner.seed)
    visits, offers, conditional = np.zeros(len(pool), int), np.zeros(len(pool), int), np.zeros(len(pool))

    def step(state: TrainState, number: int) -> tuple[TrainState, Observed]:
        found = [blocks.rows_of(int(block)) for block in blocks.of_step(number)]
        rows, valid = (np.concatenate(part) for part in zip(*found, strict=True))
        of_rows = map(jnp.asarray, (pool.image[rows], pool.tokens[rows], pool.uid[rows], valid))
        candidates = Candidates(*of_rows, reference=reference.rows(rows))
        if learner.variant:
            state, loss, index, kept, passed = _variant_step(program, learner, state, key, candidates)
            scores = np.zeros(len(index))
        else:
            state, loss, scored = distill_step(program, state, key, candidates)
            index, scores = np.asarray(scored.picks.index), np.asarray(scored.picks.conditional)
            kept, passed = float(scored.learnability_kept), float(scored.learnability_passed)
        picks = rows[index]
        offers[rows[valid]] += 1
        visits[picks] += 1
        conditional[picks] += scores
        return state, Observed(float(loss), float(pool.matched[picks].mean()), kept, passed)

    trained = _run(towers, program, steps, evaluation, step)
    trained.operations = operations(learner)
    trained.visits, trained.offers, trained.conditional = visits, offers, conditional / np.maximum(visits, 1)
    return trained


def _variant_step(
    program: Program, learner: Learner, state: TrainState, key: Any, candidates: Candidates
) -> tuple[TrainState, Any, np.ndarray, float, float]:
    """One step with another draw; returns (state, loss, picks, learnability kept, learnability passed over)."""
    variant: Any = learner.variant
    picks, own = variants.pick(program, variant, state.parameters, jax.random.fold_in(key, state.step), candidates)
    part = Part(candidates.image[picks], candidates.tokens[picks])
    index, learnability = np.asarray(picks), np.asarray(own)
    passed = np.asarray(candidates.valid).copy()
    passed[index] = False
    state, loss = learn_step(program, state, [part])
    return state, loss, index, float(learnability[index].mean()), float(learnability[passed].mean())


def _run(
    towers: Towers,
    program: Program,
    steps: int,
    evaluation: Pairs,
    step: Callable[[TrainState, int], tuple[TrainState, Observed]],
) -> Trained:
    state, due = initial_state(towers.parameters, program.optimisation), set(evaluated_steps(steps))
    begin, curve, since = time.monotonic(), [], []
    for number in range(steps):
        state, observed = step(state, number)
        since.append(observed)
        if number + 1 in due:
            recall = evaluate(Towers(towers.graph, state.parameters), evaluation)
            means = np.mean(since, axis=0).tolist()
            curve.append(Point(number + 1, recall, observed.loss, *means[1:]))
            since = []
    return Trained(Towers(towers.graph, state.parameters), curve, 0, time.monotonic() - begin)


@functools.cache
def _optimisation(steps: int, learning_rate: float) -> Optimisation:
    return Optimisation(
        loss="sigmoid", steps=steps, learning_rate=learning_rate, warmup_steps=WARMUP_STEPS,
        weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM,
    )  # fmt: skip
