"""What stands in the cells of docs/results.md: figures of runs over the seeds, as Markdown.

A score is shown as its best, a mean over the seeds with its standard error, and in brackets the mean of the last; all
in percent.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.study.analysis import Ratio, column, curve, mean_and_error, median, ratio
from benchmarks.study.claims import Comparison, found, pooled, verdict, were_run
from benchmarks.study.experiments import jest, uniform
from benchmarks.study.runs import Learner, Run
from benchmarks.study.store import Store

SEEDS = (1, 2, 3)
LABELS = {"openmoji": "OpenMoji", "flickr8k": "Flickr8k"}
# The uniform learner of the same pictures with all captions right: the ceiling of what avoiding wrong ones can save.
CEILING = "uniform, nothing wrong"
# With as many steps as the uniform learner, and its schedule: for the question of steps.
BY_STEPS: dict[str, dict[str, Any]] = {
    "JEST, f = 0.8": {"as_many_steps": True},
    "JEST, f = 0.9": {"as_many_steps": True, "filter_ratio": 0.9},
    "JEST, f = 0.95": {"as_many_steps": True, "filter_ratio": 0.95},
}
# With as many operations: for the question of operations.
BY_OPERATIONS: dict[str, dict[str, Any]] = {
    "JEST, f = 0.8": {},
    "JEST, f = 0.9": {"filter_ratio": 0.9},
    "Flexi-JEST, f = 0.8": {"flexi": True},
    "Flexi-JEST, f = 0.9": {"filter_ratio": 0.9, "flexi": True},
}
# By the reference's cached scores alone. The learner scores nothing, so as many operations are as many steps.
BY_REFERENCE: dict[str, dict[str, Any]] = {
    "easy reference, f = 0.8": {"criterion": "easy_reference"},
    "easy reference, f = 0.9": {"criterion": "easy_reference", "filter_ratio": 0.9},
}


def of_seeds(make: Callable[..., Learner], corpus: str, noise: float, **changes: Any) -> list[Learner]:
    """The same run with every seed."""
    return [make(corpus, noise, seed, **changes) for seed in SEEDS]


def ratio_of(records: Store, corpus: str, noise: float, changes: dict[str, Any]) -> Ratio | None:
    """How much sooner a variant of JEST reaches the uniform learner's best; None unless all of them were run."""
    return ratio_to(records, corpus, noise, of_seeds(jest, corpus, noise, **changes))


def ratio_to(records: Store, corpus: str, noise: float, learners: Sequence[Learner]) -> Ratio | None:
    """How much sooner learners reach the uniform learner's best, seed by seed; None unless all of them were run."""
    base, ours = found(records, of_seeds(uniform, corpus, noise)), found(records, learners)
    return None if base is None or ours is None else ratio(base, ours)


def best_and_last(records: Store, runs: Sequence[Run]) -> str:
    """Best score ± standard error, and in brackets the last."""
    listed = found(records, runs)
    if listed is None:
        return "not run"
    curves = [curve(record) for record in listed]
    return f"{percent([c.best for c in curves])} ({100 * mean_and_error([c.score[-1] for c in curves])[0]:.1f})"


def matched_share(records: Store, runs: Sequence[Run]) -> str:
    """The share of true captions among all that was learned from."""
    listed = found(records, runs)
    if listed is None:
        return ""
    shares = []
    for record in listed:
        steps = column(record, "step")
        shares.append(float(column(record, "matched") @ (steps - [0, *steps[:-1]]) / steps[-1]))
    return f"{mean_and_error(shares)[0]:.0%}"


def share_of_set(records: Store, runs: Sequence[Run]) -> str:
    """The share of true captions in what a model was trained on."""
    listed = found(records, runs)
    return "not run" if listed is None else f"{mean_and_error([record['matched'] for record in listed])[0]:.0%}"


def rows_of_set(records: Store, runs: Sequence[Run]) -> str:
    """How many rows a model was trained on."""
    listed = found(records, runs)
    return "" if listed is None else f"{mean_and_error([record['pairs'] for record in listed])[0]:,.0f}"


def true_captions(records: Store, runs: Sequence[Run]) -> str:
    """How many pairs with their own caption a model was trained on."""
    listed = found(records, runs)
    return "" if listed is None else f"{mean_and_error([one['pairs'] * one['matched'] for one in listed])[0]:,.0f}"


def separation(records: Store, runs: Sequence[Run], name: str = "separation") -> str:
    """How well the runs' references tell true captions from others, as the area under the ROC curve."""
    listed = found(records, runs)
    return "" if listed is None else f"{mean_and_error([record[name] for record in listed])[0]:.3f}"


def percent(values: Sequence[float]) -> str:
    """A mean over the seeds ± its standard error, in percent; of one seed, the value."""
    mean, error = mean_and_error(values)
    return f"{100 * mean:.2f}" + (f" ± {100 * error:.2f}" if len(values) > 1 else "")


def signed(comparison: Comparison) -> str:
    """The mean of the paired differences ± its standard error, in percentage points."""
    mean, error = comparison.difference
    return f"{100 * mean:+.2f} ± {100 * error:.2f}"


def relative(comparison: Comparison) -> str:
    """The mean of the paired differences of logarithms ± its standard error, in percent of what it is compared with."""
    mean, error = comparison.difference
    return f"{100 * math.expm1(mean):+.0f} ± {100 * error * math.exp(mean):.0f} %"


def judged(comparisons: Sequence[Comparison | None]) -> str:
    """The verdict, and what all comparisons say together."""
    run = were_run(comparisons)
    if len(run) < 2:
        return verdict(comparisons)
    together = pooled(run)
    return f"{verdict(comparisons)} Together {relative(together)} of the score: {told(together)}."


def told(comparison: Comparison) -> str:
    """What a comparison amounts to, in a word or three."""
    return "better" if comparison.holds else "worse" if comparison.reversed else "not told apart"


def times(ratios: Sequence[float | None]) -> str:
    """A median over the seeds, and each of them."""
    middle = median(ratios)
    shown = ", ".join("never" if value is None else f"{value:.1f}" for value in ratios)
    return f"{'not by most seeds' if middle is None else f'**{middle:.1f}×**'} ({shown})"


def rounded(value: float | None) -> float | None:
    """For JSON; with places enough that who rounds it again rounds as if it were not."""
    return None if value is None else round(value, 4)


def table(head: str, rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Rows under a head whose columns ` | ` divides; the first `left` read from the left, the others are numbers."""
    columns = head.split(" | ")
    lines = [f"| {head} |", "|" + "|".join(["--"] * left + ["--:"] * (len(columns) - left)) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
