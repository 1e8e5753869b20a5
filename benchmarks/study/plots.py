"""The plots of docs/results.md, as SVG: scores over steps and operations, and sub-batches' learnability by chunks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.analysis import curve
from benchmarks.study.claims import found
from benchmarks.study.corpora import NAMES
from benchmarks.study.experiments import NOISES, jest, uniform
from benchmarks.study.runs import Run
from benchmarks.study.store import RESULTS, Store

_SEEDS = (0, 1, 2)
_LINES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "uniform": ("#8a8a8a", None),
    "JEST, f = 0.8": ("#1f5fa8", {}),
    "JEST, f = 0.9": ("#7a3ea1", {"filter_ratio": 0.9}),
    "Flexi-JEST, f = 0.8": ("#c2691f", {"flexi": True}),
}


def draw_all(directory: Path, records: Store) -> None:
    """Writes every plot for which there are records."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "superbatch", "svg.fonttype": "none", "font.size": 9}
    for corpus in NAMES:
        _curves(directory / f"results-curves-{corpus}.svg", corpus, records)
        drawn = RESULTS / "gibbs" / f"{corpus}.json"
        if drawn.exists():
            _gibbs(directory / f"results-gibbs-{corpus}.svg", json.loads(drawn.read_text()))


def _curves(path: Path, corpus: str, records: Store) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(NOISES), figsize=(9, 5.6), layout="constrained", sharey="col")
    for column, noise in enumerate(NOISES):
        for name, (colour, changes) in _LINES.items():
            runs: Sequence[Run] = [
                uniform(corpus, noise, seed) if changes is None else jest(corpus, noise, seed, **changes)
                for seed in _SEEDS
            ]
            listed = found(records, runs)
            if listed is None:
                continue
            curves = [curve(record) for record in listed]
            scores = 100 * np.stack([c.score for c in curves])
            mean, error = scores.mean(0), scores.std(0, ddof=1) / len(scores) ** 0.5
            for row, x in enumerate((curves[0].steps, curves[0].steps * curves[0].operations)):
                axis = axes[row, column]
                axis.plot(x, mean, color=colour, label=name, lw=1.4, ls="--" if changes is None else "-")
                axis.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
        axes[0, column].set(title=f"{noise:.0%} mismatched", xscale="log", xlabel="steps")
        axes[1, column].set(xscale="log", xlabel="floating-point operations")
        for row in (0, 1):
            axes[row, column].grid(alpha=0.3)
    for row in (0, 1):
        axes[row, 0].set_ylabel("mean recall, %")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _gibbs(path: Path, comparisons: list[dict[str, Any]]) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    names = list(comparisons[0]["learnability"])
    values = {name: np.array([np.mean(c["learnability"][name]) for c in comparisons]) for name in names}
    errors = {name: value.std(ddof=1) / len(value) ** 0.5 if len(value) > 1 else 0.0 for name, value in values.items()}
    chunked = [name for name in names if name.endswith("chunks")]
    counts = [int(name.split()[0]) for name in chunked]
    axis.errorbar(
        counts, [values[n].mean() for n in chunked], [errors[n] for n in chunked], marker="o", ms=4, color="#1f5fa8",
        label="drawn in chunks",
    )  # fmt: skip
    longest = [name for name in names if name.endswith("exchanges")][-1]
    for name, label, style in ((longest, f"Gibbs, {longest}", "-"), ("random", "at random", ":")):
        axis.axhline(values[name].mean(), color="#444444", ls=style, lw=1.2, label=label)
    axis.set(xscale="log", xlabel="chunks", ylabel="learnability of the sub-batch, nats")
    axis.set_xticks(counts, [str(count) for count in counts], minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
