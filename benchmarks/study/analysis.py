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
    def best(self) -> float:
        """The highest score. Not the last: a learner of noise gets worse in the end."""
        return float(self.score.max())

    @property
    def best_step(self) -> int:
        """The first step with it."""
        return int(self.steps[self.score.argmax()])

    @property
    def held(self) -> float:
        """The highest score that is held at the next evaluation too: what `reaches` can reach."""
        return float(np.append(np.minimum(self.score[:-1], self.score[1:]), self.score[-1]).max())

    def reaches(self, level: float) -> float | None:
        """The step at which the score passes a level, on the line between two evaluations; None if it never does.

        It has to hold at the evaluation after that one too, if there is one: a single lucky one does not count.
        """
        above = self.score >= level
        held = above & np.append(above[1:], True)
        if not held.any():
            return None
        place = int(held.argmax())
        if place == 0 or above[place - 1]:
            return float(self.steps[place])
        before, after = self.score[place - 1], self.score[place]
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
    """Compares runs, seed by seed: when each holds the best score that the uniform one holds. With itself, it is 1."""
    steps, operations = [], []
    for base, ours in zip(map(curve, uniform), map(curve, learner), strict=True):
        first, reached = base.reaches(base.held), ours.reaches(base.held)
        times = None if reached is None or first is None else first / reached
        steps.append(times)
        operations.append(None if times is None else times * base.operations / ours.operations)
    return Ratio(steps, operations)


def has_learned(record: Record) -> bool:
    """Whether a run holds a score above what its first evaluations swing by: four of their standard deviations.

    By step 40 no learner of the study has left the scores of chance. A ratio to one that never does says little.
    """
    of = curve(record)
    untrained = of.score[of.steps <= _UNTRAINED]
    return bool(of.held > untrained.mean() + 4 * untrained.std(ddof=1))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and its standard error; 0 of a single seed."""
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else 0.0


def median(values: Sequence[float | None]) -> float | None:
    """The median, of an even number the lower one. A seed that never gets there is the slowest; None if most do not."""
    ordered = sorted(0.0 if value is None else value for value in values)
    return ordered[(len(ordered) - 1) // 2] or None
