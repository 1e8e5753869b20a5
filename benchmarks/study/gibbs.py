"""Chunked draws against brute-force Gibbs sampling (JEST, arXiv 2406.17711, Figure 2): how learnable are sub-batches?

Enters: a finished learner and its reference, and super-batches of the pool. Leaves: of each, the learnability of
sub-batches drawn in 1, 2, 4 … chunks, at random, and by a Gibbs sampler of p(C) ∝ exp(gain · Σ_{i,j ∈ C} S_ij) over
sub-batches C of one size, which exchanges one example at a time over the B × B matrix of scores. Learnability is
Σ_{i,j ∈ C} S_ij / b: by how much the sub-batch's loss is higher under the learner than under the reference.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from benchmarks.study.corpora import Pairs
from benchmarks.study.runs import Learner
from benchmarks.study.training import Embedded
from trainer.selection import select

CHUNKS = (1, 2, 4, 8, 16, 32, 64)
SWEEPS = (0.5, 1, 2, 4, 8, 16, 32)  # exchanges, in sub-batches
_SUPERBATCHES = 8


def compare(learner: Learner, pool: Pairs, ours: Embedded, guide: Embedded) -> dict[str, Any]:
    """Draws from the same super-batches in all ways; returns the learnability of every sub-batch, by the way."""
    drawn: dict[str, list[float]] = {}
    for number in range(_SUPERBATCHES):
        rows = np.random.default_rng([learner.seed, number]).permutation(len(pool))[: learner.superbatch]
        scores = _losses(ours, rows) - _losses(guide, rows)
        for name, picks in _draws(ours, guide, rows, scores, learner, number).items():
            drawn.setdefault(name, []).append(round(learnability(scores, picks), 4))
    return {"superbatch": learner.superbatch, "subbatch": learner.subbatch, "learnability": drawn}


def _draws(
    ours: Embedded, guide: Embedded, rows: np.ndarray, scores: np.ndarray, learner: Learner, number: int
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([learner.seed, number, 1])
    found = {"random": rng.permutation(len(rows))[: learner.subbatch]}
    for chunks in (count for count in CHUNKS if count <= learner.subbatch):
        config = dataclasses.replace(learner.selection, chunks=chunks)
        picks = select(jax.random.key(number), ours.rows(rows), guide.rows(rows), config)
        found[f"{chunks} chunks"] = np.asarray(picks.index)
    picks, before = found["random"], 0
    for sweeps in SWEEPS:
        exchanges = round(sweeps * learner.subbatch)
        picks, before = gibbs(learner.gain * scores, picks, exchanges - before, rng), exchanges
        found[f"{exchanges} exchanges"] = picks
    return found


def gibbs(scores: np.ndarray, picks: np.ndarray, exchanges: int, rng: np.random.Generator) -> np.ndarray:
    """Exchanges one example at a time: a random one leaves, and one enters in proportion to exp of its logit.

    The logit of j is S_jj + Σ_{i picked} (S_ij + S_ji), as in the chunked draw, with everything else picked; what has
    just left may enter again. So p(C) ∝ exp(Σ_{i,j ∈ C} S_ij) stays as it is.

    Args:
      scores: gain · S [B, B].
      picks: where the chain begins, [b].
      exchanges: how many.
      rng: of both draws.
    """
    both = scores + scores.T
    picks, open_ = picks.copy(), np.ones(len(scores), bool)
    open_[picks] = False
    sums = both[picks].sum(0)
    for _ in range(exchanges):
        place = rng.integers(len(picks))
        open_[picks[place]] = True
        sums = sums - both[picks[place]]
        logits = np.where(open_, np.diagonal(scores) + sums, -np.inf)
        chosen = int((logits + rng.gumbel(size=len(logits))).argmax())
        picks[place], open_[chosen] = chosen, False
        sums = sums + both[chosen]
    return picks


def learnability(scores: np.ndarray, picks: np.ndarray) -> float:
    """Σ_{i,j ∈ C} S_ij / b, nats."""
    return float(scores[np.ix_(picks, picks)].sum() / len(picks))


def _losses(embedded: Embedded, rows: np.ndarray) -> np.ndarray:
    """ℓ_ij of the sigmoid loss, in float64."""
    logits = embedded.scale * embedded.image[rows].astype(float) @ embedded.text[rows].T.astype(float) + embedded.bias
    return np.logaddexp(0, -(2 * np.eye(len(rows)) - 1) * logits)
