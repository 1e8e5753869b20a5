"""The page: one HTML file that needs nothing else. No script, no network, and every text escaped by Jinja.

Enters: what was collected. Leaves: HTML, the same bytes for the same round. A policy in the page forbids scripts and
all loads but pictures that it carries itself, should anything ever slip through.
"""

from dataclasses import dataclass
from pathlib import Path

import jinja2

from infra.report import exhibits, pictures, rows, story, truth
from infra.report.collect import Round
from infra.report.drift import Measure

_BRANCHES, _INDENT = "│├└─ ", 3  # as beam_pipelines/lineage.py draws them
_TEMPLATES = Path(__file__).parent / "templates"


def render(found: Round) -> str:
    """The page of one round."""
    return environment().get_template("round.html").render(
        round=found,
        sentences=list(story.sentences(found)),
        headlines=story.headlines(found),
        curves=exhibits.curves(found),
        distributions=exhibits.distributions(found),
        constant=[m for m in found.measures if not m.varies],
        drift=drift_table(found),
        visits=exhibits.visits(found),
        kinds=kinds_table(found),
        lineage=tree(found.lineage),
    )  # fmt: skip


def environment() -> jinja2.Environment:
    """Jinja as it is used here: all values are escaped, and a name that is missing is an error."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"number": _number, "seconds": _seconds, "share": _share, "shown": pictures.shown, "line": _line}
    return made


@dataclass(frozen=True)
class Branch:
    """An artifact in the tree of lineage: how deep, what it is, and where it lies."""

    depth: int
    says: str
    path: str


def tree(lines: list[str]) -> list[Branch]:
    """The lines of `superbatch lineage` without what draws their branches: a phone breaks long lines."""
    branches = []
    for line in lines:
        bare = line.lstrip(_BRANCHES)
        says, _, path = bare.partition("  ")
        depth = (len(line) - len(bare)) // _INDENT
        branches.append(Branch(depth, *(pictures.shown(text, pictures.LONGEST_LINE) for text in (says, path))))
    return branches


def drift_table(found: Round) -> list[tuple[Measure, list[tuple[str, float, float]]]]:
    """Every measure with the drift of each dataset and its noise, in bits."""
    return [
        (measure, [(story.TITLES[name], measure.drift(name), noise) for name, noise in measure.noise.items()])
        for measure in found.measures
        if measure.noise and measure.varies
    ]


def kinds_table(found: Round) -> list[tuple[str, int, list[float]]]:
    """For each dataset: the rows whose truth is known, and the share of each kind."""
    table = []
    for name in rows.DATASETS:
        if name in found.surveys and (known := found.surveys[name].kinds.total()):
            shares = [found.surveys[name].kinds[kind] / known for kind in truth.KINDS]
            table.append((story.TITLES[name], known, shares))
    return table


def _line(text: str) -> str:
    return pictures.shown(text, pictures.LONGEST_LINE)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
