"""The gate before publication: did models trained on the curated set do better than those trained on its control?

Enters: the files that `superbatch evaluate` wrote, one for each seed, of models trained on either set. Leaves: a
verdict in one line. A tie, or figures that are no numbers, is no reason to publish.

The standard library only: `infra/airflow/` puts this file beside its DAG, where nothing of ours is installed.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

METRIC = "recall_at_1"
_DIRECTIONS = ("text_to_image", "image_to_text")


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    metric: str
    curated: float
    control: float
    seeds: int

    @property
    def passed(self) -> bool:
        """Whether the curated set may be published."""
        return self.curated > self.control

    def __str__(self) -> str:
        gain = self.curated - self.control
        if self.passed:
            says = f"the curated set beats its control by {gain:.4f}"
        elif gain == 0:
            says = "not published: the curated set is no better than its control"
        elif math.isnan(gain):
            says = "not published: the figures are not numbers"
        else:
            says = f"not published: the curated set is behind its control by {-gain:.4f}"
        mean = f", means of {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{says} ({self.metric} {self.curated:.4f} and {self.control:.4f}{mean})"


def judge(
    curated: Sequence[str], control: Sequence[str], read: Callable[[str], bytes], metric: str = METRIC
) -> Verdict:
    """Compares the means of a metric.

    Args:
      curated: paths of the evaluations of models trained on the curated set.
      control: the same of its control.
      read: returns a file's bytes.
      metric: a figure of `superbatch evaluate`; `recall_at_1` is the mean of both directions, and so are 5 and 10.

    Raises:
      ValueError: there is nothing to compare, or a file holds no such figure; says what there is.
    """
    if not curated or len(curated) != len(control):
        raise ValueError(f"a gate compares as many evaluations of each: {len(curated)} and {len(control)} were given")
    means = [_mean([_figure(path, read, metric) for path in paths]) for paths in (curated, control)]
    return Verdict(metric, *means, seeds=len(curated))


def _mean(figures: list[float]) -> float:
    return math.fsum(figures) / len(figures) if all(map(math.isfinite, figures)) else math.nan


def _figure(path: str, read: Callable[[str], bytes], metric: str) -> float:
    try:
        figures = {name: float(value) for name, value in json.loads(read(path))["figures"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no output of `superbatch evaluate`: {error!r}") from None
    if metric in figures:
        return figures[metric]
    both = [f"{direction}_{metric}" for direction in _DIRECTIONS]
    if not figures.keys() >= set(both):
        raise ValueError(f"{path} has no figure {metric!r}; there are: {', '.join(figures)}, and recall_at_1, 5 and 10")
    return _mean([figures[name] for name in both])
