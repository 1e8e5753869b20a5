"""From records to figures: scores over steps, what is best, and when another learner gets there.

A score is the mean of six recalls: at 1, 5 and 10, from text to image and from image to text. One recall alone rests on
a few dozen hits here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Record = dict[str, Any]
_UNTRAINED = 40  # steps


@dataclass(frozen=True)
class Curve:
    """What a run was worth after each of some steps."""

    steps: np.ndarray  # int [points]
    score: np.ndarray  # float [points], in [0, 1]
    operations: int  # of one step

    @property
    def smooth(self) -> np.ndarray:
        """The mean of every score and its neighbours, float [points]: one lucky evaluation decides nothing."""
        sums, counts = (np.convolve(array, np.ones(3), "same") for array in (self.score, np.ones(len(self.score))))
        return sums / counts

    @property
    def best(self) -> float:
        """The highest score, smoothed. Not the last: a learner of noise gets worse in the end."""
        return float(self.smooth.max())

    @property
    def best_step(self) -> int:
        """The first step with it."""
        return int(self.steps[self.smooth.argmax()])

    def reaches(self, level: float) -> float | None:
        """The first step at which the score, smoothed, is at a level; on the line between two evaluations.

        None if it never is.
        """
        above = self.smooth >= level
        if not above.any():
            return None
        place = int(above.argmax())
        if place == 0:
            return float(self.steps[0])
        before, after = self.smooth[place - 1], self.smooth[place]
        share = (level - before) / (after - before)
        return float(self.steps[place - 1] + share * (self.steps[place] - self.steps[place - 1]))


@dataclass(frozen=True)
class Ratio:
    """How much sooner a learner reaches the uniform learner's best than that learner did; of each seed."""

    steps: list[float | None]  # None where it never does
    operations: list[float | None]


def curve(record: Record) -> Curve:
    """The scores of a run."""
    rows = np.array(record["curve"])
    recalls = [place for place, name in enumerate(record["columns"]) if "recall" in name]
    return Curve(rows[:, 0].astype(int), rows[:, recalls].mean(1), record["operations_per_step"])


def column(record: Record, name: str) -> np.ndarray:
    """One column of a run's curve."""
    return np.array(record["curve"])[:, record["columns"].index(name)]


def ratio(uniform: Sequence[Record], learner: Sequence[Record]) -> Ratio:
    """Compares runs, seed by seed: when each is where the uniform one is best. Of a run with itself, it is 1."""
    steps, operations = [], []
    for base, ours in zip(map(curve, uniform), map(curve, learner), strict=True):
        reached = ours.reaches(base.best)
        times = None if reached is None else base.best_step / reached
        steps.append(times)
        operations.append(None if times is None else times * base.operations / ours.operations)
    return Ratio(steps, operations)


def has_learned(record: Record) -> bool:
    """Whether a run's best is above what its first evaluations swing by: four of their standard deviations.

    By step 40 no learner of the study has left the scores of chance. A ratio to one that never does says little.
    """
    of = curve(record)
    untrained = of.score[of.steps <= _UNTRAINED]
    return bool(of.best > untrained.mean() + 4 * untrained.std(ddof=1))


def share_of_gibbs(draws: Record) -> dict[str, float]:
    """How much learnability every way of drawing gains over random draws, as a share of what Gibbs sampling gains.

    Args:
      draws: the record of a comparison (`benchmarks.study.gibbs`); Gibbs sampling is its longest chain.
    """
    mean = {name: float(np.mean(values)) for name, values in draws["learnability"].items()}
    longest = [value for name, value in mean.items() if name.endswith("exchanges")][-1]
    return {name: (value - mean["random"]) / (longest - mean["random"]) for name, value in mean.items()}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and its standard error; 0 of a single seed."""
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else 0.0


def median(values: Sequence[float | None]) -> float | None:
    """The median, of an even number the lower one. A seed that never gets there is the slowest; None if most do not."""
    ordered = sorted(0.0 if value is None else value for value in values)
    return ordered[(len(ordered) - 1) // 2] or None
