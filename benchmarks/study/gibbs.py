"""Chunked draws against brute-force Gibbs sampling (JEST, arXiv 2406.17711, Figure 2): how learnable are sub-batches?

Enters: a finished learner and its reference, and super-batches of the pool. Leaves: of each, the learnability of
sub-batches drawn in 1, 2, 4 … chunks, at random, and by a Gibbs sampler of p(C) ∝ exp(Σ_{i,j ∈ C} S_ij) over
sub-batches C of one size, which exchanges one example at a time over the B × B matrix of scores. Learnability is
Σ_{i,j ∈ C} S_ij / b: by how much the sub-batch's loss is higher under the learner than under the reference.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.study import training
from benchmarks.study.corpora import load
from benchmarks.study.execute import embedded_by, restored
from benchmarks.study.runs import Learner, identity
from benchmarks.study.training import Embedded
from trainer.selection import SelectionConfig, select

CHUNKS = (1, 2, 4, 8, 16, 32, 64)
SWEEPS = (0.5, 1, 2, 4, 8, 16, 32)  # exchanges, in sub-batches
_SUPERBATCHES = 8


def write(learners: Sequence[Learner], data: Path | None, scratch: Path, path: Path) -> None:
    """Compares with each learner, and stores the records; does nothing if they are stored already."""
    if path.exists() and [record["learner"] for record in json.loads(path.read_text())] == list(
        map(identity, learners)
    ):
        return
    records = [compare(learner, data, scratch) for learner in learners]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")


def compare(learner: Learner, data: Path | None, scratch: Path) -> dict[str, Any]:
    """Measures all ways of drawing on the same super-batches; returns a record."""
    corpus = load(learner.corpus, learner.noise, data)
    ours, guide = (
        training.embed(restored(learner, corpus, scratch), corpus.pool),
        embedded_by(learner.guide, corpus, scratch),
    )
    drawn: dict[str, list[float]] = {}
    for number in range(_SUPERBATCHES):
        rows = np.random.default_rng([learner.seed, number]).permutation(len(corpus.pool))[: learner.superbatch]
        scores = _losses(ours, rows) - _losses(guide, rows)
        for name, picks in _draws(ours, guide, rows, scores, learner, number).items():
            drawn.setdefault(name, []).append(round(learnability(scores, picks), 4))
    return {
        "learner": identity(learner),
        "superbatch": learner.superbatch,
        "subbatch": learner.subbatch,
        "learnability": drawn,
    }


def _draws(
    ours: Embedded, guide: Embedded, rows: np.ndarray, scores: np.ndarray, learner: Learner, number: int
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([learner.seed, number, 1])
    found = {"random": rng.permutation(len(rows))[: learner.subbatch]}
    for chunks in CHUNKS:
        config = SelectionConfig(filter_ratio=learner.filter_ratio, chunks=chunks)
        picks = select(jax.random.key(number), ours.rows(rows), guide.rows(rows), config)
        found[f"{chunks} chunks"] = np.asarray(picks.index)
    picks, before = found["random"], 0
    for sweeps in SWEEPS:
        exchanges = round(sweeps * learner.subbatch)
        picks, before = gibbs(scores, picks, exchanges - before, rng), exchanges
        found[f"{exchanges} exchanges"] = picks
    return found


def gibbs(scores: np.ndarray, picks: np.ndarray, exchanges: int, rng: np.random.Generator) -> np.ndarray:
    """Exchanges one example at a time: a random one leaves, and one enters in proportion to exp of its logit.

    The logit of j is S_jj + Σ_{i picked} (S_ij + S_ji), as in the chunked draw, with everything else picked; what has
    just left may enter again. So p(C) ∝ exp(Σ_{i,j ∈ C} S_ij) stays as it is.

    Args:
      scores: S [B, B].
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
