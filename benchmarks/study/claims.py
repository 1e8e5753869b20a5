"""Whether what the paper says holds here: paired comparisons over seeds, and one rule that turns them into a word.

A comparison holds if its mean difference over the seeds is more than two standard errors above zero, and is reversed if
it is more than two below. A claim holds if all its comparisons do, holds partly if some do, and does not hold here if
none does. Three seeds are few: two standard errors are then a coarse sieve, not a test.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.study.analysis import Record, curve, mean_and_error
from benchmarks.study.runs import Run
from benchmarks.study.store import Store


@dataclass(frozen=True)
class Comparison:
    """Something measured on the same seeds with and without what a claim is about."""

    what: str
    ours: list[float]  # one of each seed
    base: list[float]

    @property
    def difference(self) -> tuple[float, float]:
        """The mean of the paired differences, and its standard error."""
        return mean_and_error([a - b for a, b in zip(self.ours, self.base, strict=True)])

    @property
    def holds(self) -> bool:
        """Better, by more than two standard errors."""
        mean, error = self.difference
        return mean > 2 * error

    @property
    def reversed(self) -> bool:
        """Worse, by more than two standard errors."""
        mean, error = self.difference
        return mean < -2 * error


def verdict(comparisons: Sequence[Comparison]) -> str:
    """One word or three, and the count behind it."""
    if not comparisons:
        return "**Not run yet.**"
    held, against = sum(c.holds for c in comparisons), sum(c.reversed for c in comparisons)
    word = "Holds" if held == len(comparisons) else "Holds partly" if held else "Does not hold here"
    count = f"better in {held} of {len(comparisons)} comparisons"
    return f"**{word}**: {count}" + (f", worse in {against}." if against else ".")


def best_scores(store: Store, runs: Iterable[Run]) -> list[float] | None:
    """The best score of each run; None unless all of them are there."""
    records = found(store, runs)
    return None if records is None else [curve(record).best for record in records]


def found(store: Store, runs: Iterable[Run]) -> list[Record] | None:
    """The records of runs; None unless all of them are there."""
    listed = list(runs)
    return [store[run] for run in listed] if listed and all(run in store for run in listed) else None


def compare(
    store: Store, what: str, ours: Callable[[int], Run], base: Callable[[int], Run], seeds: Sequence[int]
) -> list[Comparison]:
    """Compares the best scores of two runs over the seeds; an empty list unless all of them are there."""
    scores = [best_scores(store, map(of_seed, seeds)) for of_seed in (ours, base)]
    return [] if scores[0] is None or scores[1] is None else [Comparison(what, scores[0], scores[1])]
