"""The plots of docs/results.md, as SVG: scores over steps and operations, and sub-batches' learnability by chunks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.analysis import curve, share_of_gibbs
from benchmarks.study.cells import BY_OPERATIONS, BY_REFERENCE, BY_STEPS, CEILING, of_seeds
from benchmarks.study.claims import found
from benchmarks.study.corpora import NAMES
from benchmarks.study.experiments import NOISES, NOISIEST, jest, uniform
from benchmarks.study.runs import Draws, Run
from benchmarks.study.store import Store

_UNIFORM = "#8a8a8a"
_STYLES = {"uniform": "--", CEILING: ":"}
_COLOURS = ("#1f5fa8", "#7a3ea1", "#c2691f", "#2a7d4f", "#b3365b")
_ALONE = next(iter(BY_REFERENCE))  # one filter ratio of these is enough to see


def draw_all(directory: Path, records: Store) -> None:
    """Writes every plot for which there are records."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "superbatch", "svg.fonttype": "none", "font.size": 9}
    for corpus in NAMES:
        _curves(directory / f"results-curves-{corpus}.svg", corpus, records)
        drawn = found(records, [Draws(learner=learner) for learner in of_seeds(jest, corpus, NOISIEST)])
        if drawn is not None:
            _gibbs(directory / f"results-gibbs-{corpus}.svg", drawn)


def _curves(path: Path, corpus: str, records: Store) -> None:
    """Above, scores over steps, of learners that have as many; below, over operations, of those that have as many."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(NOISES), figsize=(9, 5.8), layout="constrained", sharey="col")
    by_operations = BY_OPERATIONS | {_ALONE: BY_REFERENCE[_ALONE]}
    for column, noise in enumerate(NOISES):
        for row, variants in enumerate((BY_STEPS, by_operations)):
            axis = axes[row, column]
            base = of_seeds(uniform, corpus, noise)
            _line(axis, records, base, "uniform", _UNIFORM, by_operations=bool(row))
            if noise and not row:  # what there is to gain where nothing but the wrong captions costs steps
                clean = of_seeds(uniform, corpus, 0.0)
                _line(axis, records, clean, CEILING, _UNIFORM, by_operations=False)
            for (name, changes), colour in zip(variants.items(), _COLOURS, strict=False):
                runs = of_seeds(jest, corpus, noise, **changes)
                _line(axis, records, runs, name, colour, by_operations=bool(row))
            axis.set(xscale="log", xlabel="floating-point operations" if row else "steps")
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel("mean recall, %")
            if axis.get_legend_handles_labels()[0] and column == len(NOISES) - 1:
                axis.legend(frameon=False, fontsize=7)
        axes[0, column].set_title(f"{noise:.0%} mismatched")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _line(axis: Any, records: Store, runs: Sequence[Run], name: str, colour: str, *, by_operations: bool) -> None:
    """The mean over the seeds, and a band of one standard error on both sides; nothing if a run is missing."""
    listed = found(records, runs)
    if listed is None:
        return
    curves = [curve(record) for record in listed]
    scores = 100 * np.stack([c.score for c in curves])
    mean, error = scores.mean(0), scores.std(0, ddof=1) / len(scores) ** 0.5
    x = curves[0].steps * (float(curves[0].operations) if by_operations else 1)
    axis.plot(x, mean, color=colour, label=name, lw=1.4, ls=_STYLES.get(name, "-"))
    axis.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, lw=0)


def _gibbs(path: Path, comparisons: list[dict[str, Any]]) -> None:
    """Chunks and Gibbs's exchanges on one axis: both are draws, each of which waits for the one before."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    gained = [share_of_gibbs(comparison) for comparison in comparisons]
    for kind, label, colour in (("chunks", "in chunks", _COLOURS[0]), ("exchanges", "Gibbs, one by one", _UNIFORM)):
        names = [name for name in gained[0] if name.endswith(kind)]
        values = 100 * np.array([[of[name] for name in names] for of in gained])
        error = values.std(0, ddof=1) / len(values) ** 0.5
        draws = [int(name.split()[0]) for name in names]
        axis.errorbar(draws, values.mean(0), error, marker="o", ms=4, color=colour, label=label)
    ticks = [4**k for k in range(6)]
    axis.set(xscale="log", xlabel="draws one after another", ylabel="learnability gained, % of Gibbs sampling's")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
