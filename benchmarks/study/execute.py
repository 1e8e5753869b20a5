"""Carries out one run of the study: its data, its training, and what is kept of it.

Enters: a run, and a scratch folder with the artifacts of those that it needs. Leaves: a record for
`benchmarks/results/` (plain JSON: identity, curve, costs, fingerprints), and in the scratch folder what later runs
read: a model's parameters, and of a learner how often it picked every row.
"""

import os
import platform
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.study import gibbs, training
from benchmarks.study.corpora import Corpus, Pairs, load
from benchmarks.study.experiments import uniform
from benchmarks.study.runs import (
    BATCH_SIZE,
    DOWNSTREAM_STEPS,
    LEARNING_RATE,
    REFERENCE_BATCH,
    REFERENCE_LEARNING_RATE,
    UNIFORM_STEPS,
    Downstream,
    Draws,
    Learner,
    Reference,
    Run,
    artifact,
    identity,
    name_of,
)
from benchmarks.study.training import Embedded, Point, Towers, Trained
from trainer.model import parameters_fingerprint

RECALLS = [f"{way}_recall_at_{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
COUNTS = ("visits", "offers", "conditional")  # of a learner: what later runs read beside its parameters
CURVE = ["step", "loss", "matched", "kept", "passed", *RECALLS]  # columns of a record's curve


def execute(run: Run, data: Path | None, scratch: Path) -> dict[str, Any]:
    """Trains what the run asks for; returns its record.

    Args:
      run: whose `needs` have been executed.
      data: the folder of Flickr8k's tars.
      scratch: for artifacts.
    """
    corpus = load(run.corpus, run.noise, run.seed, data)
    if isinstance(run, Draws):
        begin = time.monotonic()
        found = gibbs.compare(run.learner, corpus.pool, *_both(run.learner, corpus, scratch))
        return _record(run, corpus, scratch, found, time.monotonic() - begin)
    if isinstance(run, Reference):
        trained, more = _reference(run, corpus, scratch)
    elif isinstance(run, Learner):
        trained, more = _learner(run, corpus, scratch)
    else:
        trained, more = _downstream(run, corpus, scratch)
    leaves = {f"leaf_{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(trained.towers.parameters))}
    counts = {name: value for name in COUNTS if (value := getattr(trained, name)) is not None}
    _save(artifact(scratch, run), leaves | counts | {"parameters": parameters_fingerprint(trained.towers.parameters)})
    found = {"columns": CURVE, "curve": [_row(point) for point in trained.curve]}
    return _record(run, corpus, scratch, found | {"operations_per_step": trained.operations} | more, trained.seconds)


def _record(run: Run, corpus: Corpus, scratch: Path, found: dict[str, Any], seconds: float) -> dict[str, Any]:
    own = {} if isinstance(run, Draws) else {"parameters": made_of(artifact(scratch, run))}
    return {
        "run": identity(run),
        **found,
        "fingerprints": {"pool": corpus.pool.fingerprint, "evaluation": corpus.evaluation.fingerprint, **own},
        "parents": {name_of(needed): made_of(artifact(scratch, needed)) for needed in run.needs},
        "seconds": round(seconds, 1),
        "machine": f"{os.cpu_count()} {platform.machine()} cores, {jax.default_backend()}, JAX {jax.__version__}",
    }


def made_of(path: Path) -> str:
    """The fingerprint of the parameters in an artifact."""
    with np.load(path) as stored:
        return str(stored["parameters"])


def steps_of(learner: Learner) -> int:
    """As many as cost what the uniform learner's do, or just as many."""
    if learner.as_many_steps:
        return UNIFORM_STEPS[learner.corpus]
    base = uniform(learner.corpus, learner.noise, learner.seed)
    return round(UNIFORM_STEPS[learner.corpus] * training.operations(base) / training.operations(learner))


def _reference(run: Reference, corpus: Corpus, scratch: Path) -> tuple[Trained, dict[str, Any]]:
    pairs = corpus.seed.of_pictures(run.pictures)
    if run.curated_by is not None:
        pairs = corpus.pool.take(curated_rows(run.curated_by, round(run.budget * len(corpus.pool)), scratch))
    trained = training.train_uniformly(
        pairs, corpus.evaluation, vocabulary=corpus.vocabulary, seed=run.seed, initial=run.seed + 1000, steps=run.steps,
        batch_size=REFERENCE_BATCH, learning_rate=REFERENCE_LEARNING_RATE, augmented=run.augment,
    )  # fmt: skip
    return trained, {"pairs": len(pairs), "matched": float(pairs.matched.mean())}


def _learner(run: Learner, corpus: Corpus, scratch: Path) -> tuple[Trained, dict[str, Any]]:
    steps = steps_of(run)
    if run.criterion == "uniform":
        trained = training.train_uniformly(
            corpus.pool, corpus.evaluation, vocabulary=corpus.vocabulary, seed=run.seed, initial=run.seed, steps=steps,
            batch_size=run.subbatch, learning_rate=run.rate,
        )  # fmt: skip
        return trained, {}
    reference = embedded_by(run.guide, corpus, scratch)
    trained = training.train_selectively(
        corpus.pool, corpus.evaluation, reference, run, vocabulary=corpus.vocabulary, steps=steps
    )
    return trained, _separations(run, reference, corpus, scratch)


def _separations(run: Learner, reference: Embedded, corpus: Corpus, scratch: Path) -> dict[str, Any]:
    """How well the reference tells true captions from others, on rows that it was not trained on.

    Of a bootstrapped one, also how well the one before did on these very rows.
    """
    by = run.guide.curated_by
    if by is None:
        return {"separation": separation(reference, corpus.pool)}
    unseen = np.ones(len(corpus.pool), bool)
    unseen[curated_rows(by, round(run.guide.budget * len(corpus.pool)), scratch)] = False
    before = embedded_by(by.guide, corpus, scratch)
    return {
        "separation": separation(reference, corpus.pool, unseen),
        "separation_before": separation(before, corpus.pool, unseen),
    }


def _downstream(run: Downstream, corpus: Corpus, scratch: Path) -> tuple[Trained, dict[str, Any]]:
    curated = curated_rows(run.learner, round(run.budget * len(corpus.pool)), scratch)
    if run.subset == "curated":
        rows = curated
    elif run.subset == "control":
        rows = np.random.default_rng([run.seed, 0]).permutation(len(corpus.pool))[: len(curated)]
    else:
        reference = embedded_by(run.learner.guide, corpus, scratch)
        rows = np.argsort(-_alignment(reference), kind="stable")[: len(curated)]
    pairs = corpus.pool.take(np.sort(rows))
    trained = training.train_uniformly(
        pairs, corpus.evaluation, vocabulary=corpus.vocabulary, seed=run.seed, initial=run.seed + 2000,
        steps=DOWNSTREAM_STEPS[run.corpus], batch_size=BATCH_SIZE[run.corpus], learning_rate=LEARNING_RATE[run.corpus],
    )  # fmt: skip
    return trained, {"pairs": len(pairs), "matched": float(pairs.matched.mean())}


def curated_rows(learner: Learner, count: int, scratch: Path) -> np.ndarray:
    """The rows that policy `visits` puts first: by visits per offer, then by mean conditional logit.

    At most `count`: fewer if the learner never picked as many different ones.
    """
    with np.load(artifact(scratch, learner)) as stored:
        visits, offers, conditional = (stored[name] for name in COUNTS)
    picked = np.flatnonzero(visits)
    order = np.lexsort((-conditional[picked], -visits[picked] / offers[picked]))
    return picked[order][:count]


def _both(learner: Learner, corpus: Corpus, scratch: Path) -> tuple[Embedded, Embedded]:
    """The pool, embedded by a learner and by its reference."""
    ours = training.embed(restored(learner, corpus, scratch), corpus.pool)
    return ours, embedded_by(learner.guide, corpus, scratch)


def embedded_by(reference: Reference, corpus: Corpus, scratch: Path) -> Embedded:
    """The pool, embedded by a finished reference."""
    return training.embed(restored(reference, corpus, scratch), corpus.pool)


def restored(run: Run, corpus: Corpus, scratch: Path) -> Towers:
    """A finished run's model."""
    fresh = training.build(corpus.vocabulary, 0)
    with np.load(artifact(scratch, run)) as stored:
        leaves = [stored[f"leaf_{k}"] for k in range(len(jax.tree.leaves(fresh.parameters)))]
    return Towers(fresh.graph, jax.tree.unflatten(jax.tree.structure(fresh.parameters), leaves))


def separation(embedded: Embedded, pairs: Pairs, rows: np.ndarray | None = None) -> float | None:
    """How well alignment tells matched pairs from mismatched ones: the area under the ROC curve; None if all match.

    Args:
      embedded: the pairs, by the reference.
      pairs: with the truth.
      rows: which of them to look at, bool [pairs]; all if not given.
    """
    rows = np.ones(len(pairs), bool) if rows is None else rows
    matched, alignment = pairs.matched[rows], _alignment(embedded)[rows]
    if matched.all():
        return None
    rank = np.empty(len(matched))
    rank[np.argsort(alignment, kind="stable")] = np.arange(1, len(matched) + 1)
    good, bad = matched.sum(), (~matched).sum()
    return float((rank[matched].sum() - good * (good + 1) / 2) / (good * bad))


def _alignment(embedded: Embedded) -> np.ndarray:
    return np.einsum("nd,nd->n", embedded.image, embedded.text)


def _row(point: Point) -> list[float]:
    numbers = [point.loss, point.matched, point.kept, point.passed]
    return [point.step, *(round(x, 4) for x in numbers), *(round(point.recall[name], 5) for name in RECALLS)]


def _save(path: Path, arrays: dict[str, Any]) -> None:
    """Writes in one move: a run that is stopped leaves nothing that looks finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.npz")
    np.savez(temporary, **arrays)
    temporary.replace(path)
