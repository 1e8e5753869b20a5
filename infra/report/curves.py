"""Curves of a round's trainings, from their `metrics.jsonl`.

Enters: workdirs, finished or not. Leaves: points of step and value, no more than a chart can show: where there are
more, each is a mean over as many.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from infra.report.layout import Layout
from schemas import storage

_FILE = "metrics.jsonl"  # trainer/metrics.py, which would import jax
POINTS = 240
Points = list[tuple[float, float]]
NAMES = ("loss", "learnability_kept", "learnability_passed")


def read(layout: Layout) -> dict[str, dict[str, Points]]:
    """The curves of every training that wrote metrics: by what is trained, then by metric."""
    found = {name: _read(workdir) for name, workdir in layout.workdirs.items()}
    return {name: curves for name, curves in found.items() if curves}


def _read(workdir: str) -> dict[str, Points]:
    path = storage.as_path(workdir) / _FILE
    if not path.exists():
        return {}
    lines = [line for text in path.read_text().splitlines() if (line := _parse(text))]
    found = {name: [(line["step"], line[name]) for line in lines if _is_number(line.get(name))] for name in NAMES}
    return {name: thin(points) for name, points in found.items() if points}


def _parse(text: str) -> dict[str, Any] | None:
    """A line; None if it is none, as where a machine died."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and _is_number(line.get("step")) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def thin(points: Sequence[tuple[float, float]], most: int = POINTS) -> Points:
    """At most so many points, each the mean of those that it stands for."""
    if len(points) <= most:
        return [(float(step), float(value)) for step, value in points]
    groups = [points[place * len(points) // most : (place + 1) * len(points) // most] for place in range(most)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]
