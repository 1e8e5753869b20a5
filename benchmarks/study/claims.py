"""Whether what the paper says holds here: paired comparisons over seeds, and one rule that turns them into a word.

A comparison holds if the differences of its seeds pass Student's one-sided t test at 5 %, and is reversed if they do
with the other sign. A claim holds if all its comparisons do, holds partly if more hold than are reversed, and else does
not hold here. Three seeds make that a coarse sieve, and of twenty comparisons without any effect one will hold. So all
comparisons of a claim are also looked at together, which six seeds of two corpora decide.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.study.analysis import Record, curve, mean_and_error
from benchmarks.study.runs import Run
from benchmarks.study.store import Store


@dataclass(frozen=True)
class Comparison:
    """Something measured on the same seeds with and without what a claim is about."""

    ours: list[float]  # one of each seed
    base: list[float]
    corpus: str = ""  # whose seeds they are

    @property
    def difference(self) -> tuple[float, float]:
        """The mean of the paired differences, and its standard error."""
        return mean_and_error([a - b for a, b in zip(self.ours, self.base, strict=True)])

    @property
    def holds(self) -> bool:
        """Better, beyond what the seeds' spread explains."""
        return self._stands_out(+1)

    @property
    def reversed(self) -> bool:
        """Worse, beyond what the seeds' spread explains."""
        return self._stands_out(-1)

    def _stands_out(self, sign: int) -> bool:
        mean, error = self.difference
        return len(self.ours) > 1 and sign * mean > float(stats.t.ppf(0.95, len(self.ours) - 1)) * error


def pooled(comparisons: Sequence[Comparison]) -> Comparison:
    """Several comparisons as one, of relative differences: the mean logarithm of every seed of every corpus.

    Comparisons of the same corpus share their seeds' references and order, so a seed counts once.
    """
    of_corpora = defaultdict(list)
    for comparison in comparisons:
        of_corpora[comparison.corpus].append(comparison)

    def side(name: str) -> list[float]:
        logarithms = [np.log([getattr(c, name) for c in listed]).mean(0) for listed in of_corpora.values()]
        return np.concatenate(logarithms).tolist()

    return Comparison(side("ours"), side("base"))


def were_run(comparisons: Sequence[Comparison | None]) -> list[Comparison]:
    """The comparisons without those that were not run."""
    return [comparison for comparison in comparisons if comparison is not None]


def word(comparisons: Sequence[Comparison | None]) -> str:
    """What a claim's comparisons amount to, in one word or a few; None is a comparison that was not run."""
    run, held, against = _tally(comparisons)
    if not run:
        return "Not run yet"
    said = "Holds" if held == run else "Holds partly" if held > against else "Does not hold here"
    return said if run == len(comparisons) else f"{said} so far"


def counts(comparisons: Sequence[Comparison | None]) -> str:
    """How many comparisons say so, and how many the contrary."""
    run, held, against = _tally(comparisons)
    missing = len(comparisons) - run
    said = f"better in {held} of {run} comparisons" + (f", worse in {against}" if against else "")
    return said + (f"; {missing} not run" if missing else "")


def verdict(comparisons: Sequence[Comparison | None]) -> str:
    """The word, and the counts behind it."""
    if not were_run(comparisons):
        return f"**{word(comparisons)}.**"
    return f"**{word(comparisons)}**: {counts(comparisons)}."


def _tally(comparisons: Sequence[Comparison | None]) -> tuple[int, int, int]:
    """How many were run, how many of them hold, and how many are reversed."""
    run = were_run(comparisons)
    return len(run), sum(c.holds for c in run), sum(c.reversed for c in run)


def best_scores(store: Store, runs: Iterable[Run]) -> list[float] | None:
    """The best score of each run; None unless all of them are there."""
    records = found(store, runs)
    return None if records is None else [curve(record).best for record in records]


def found(store: Store, runs: Iterable[Run]) -> list[Record] | None:
    """The records of runs; None unless all of them are there."""
    listed = list(runs)
    return [store[run] for run in listed] if listed and all(run in store for run in listed) else None


def compare(store: Store, ours: Sequence[Run], base: Sequence[Run]) -> Comparison | None:
    """Compares the best scores of runs, seed by seed; None unless all of them are there."""
    scores = best_scores(store, ours), best_scores(store, base)
    return None if scores[0] is None or scores[1] is None else Comparison(scores[0], scores[1], ours[0].corpus)
