"""What models learned from the curated set and from its control, as `superbatch evaluate` measured it.

Enters: a round's `evaluations/`. Leaves: the figures of each seed, and their means with standard errors.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from infra.report import pictures
from infra.report.layout import LABELS, Layout
from schemas import storage

_DIRECTIONS = ("text_to_image", "image_to_text")
_LEVELS = (1, 5, 10)


@dataclass(frozen=True)
class Spread:
    """A mean and its standard error; the latter is None for a single value."""

    mean: float
    error: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of the models on both sides, by seed; recall is the mean of both directions."""

    metric: str
    seeds: list[int]
    curated: list[float]
    control: list[float]

    @property
    def differences(self) -> list[float]:
        """Curated less control, seed by seed."""
        return [a - b for a, b in zip(self.curated, self.control, strict=True)]

    @property
    def means(self) -> list[Spread]:
        """Of the curated set, the control, and the difference."""
        return [_spread(values) for values in (self.curated, self.control, self.differences)]


def compare(layout: Layout) -> list[Comparison]:
    """Compares every figure that all models of both sides have, of the seeds that both sides have."""
    figures = {seed: {label: _figures(layout, label, seed) for label in LABELS} for seed in layout.seeds}
    complete = {seed: both for seed, both in figures.items() if all(both.values())}
    if not complete:
        return []
    names = set.intersection(*(set(one) for both in complete.values() for one in both.values()))
    order = [f"recall at {k}" for k in _LEVELS]
    names = sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))
    return [
        Comparison(
            metric=name, seeds=list(complete), curated=[both["curated"][name] for both in complete.values()],
            control=[both["control"][name] for both in complete.values()],
        )
        for name in names
    ]  # fmt: skip


def _figures(layout: Layout, label: str, seed: int) -> dict[str, float]:
    path = storage.as_path(layout.directory) / "evaluations" / f"downstream-{label}-{seed}.json"
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_bytes())["figures"]
        figures = {str(name): float(value) for name, value in stored.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    found = {name: value for name, value in figures.items() if name not in ("images", "texts") and "recall" not in name}
    for k in _LEVELS:
        both = [figures.get(f"{direction}_recall_at_{k}") for direction in _DIRECTIONS]
        if None not in both:
            found[f"recall at {k}"] = sum(value for value in both if value is not None) / 2
    return {pictures.shown(name.replace("_", " ")): value for name, value in found.items() if math.isfinite(value)}


def _spread(values: Sequence[float]) -> Spread:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean, math.sqrt(variance / len(values)))
