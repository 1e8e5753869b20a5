"""The tables of docs/results.md about whole rounds, run by the commands that users run.

Enters: the `summary.json` that such a round leaves (`benchmarks.figures`), kept in `benchmarks/results/rounds/`.
Leaves: Markdown.
"""

import json
from collections.abc import Callable
from typing import Any

from benchmarks import figures
from benchmarks.study.cells import table
from benchmarks.study.store import RESULTS, Store

ROUNDS = RESULTS.parent / "rounds"
_SETS = {"pool": "pool", "control": "uniform control", "top_reference": "top reference", "curated": "curated"}
_KINDS = ("matched", "mismatched", "boilerplate")


def section(corpus: str) -> Callable[[Store], str]:
    """What renders the tables of a corpus's round; the study's records have no part in them."""
    kept = ROUNDS / f"{corpus}.json"
    return lambda _: shown(json.loads(kept.read_text())) if kept.exists() else "**Not run yet.**"


def shown(summary: dict[str, Any]) -> str:
    """How long it took and on what, what every dataset holds, and how models trained on two of them retrieve."""
    took = f"{summary['seconds'] / 60:.0f} minutes after setup, on {summary['machine']}."
    sets = [
        [label, f"{summary['rows'][name]:,}", *(f"{summary['kinds'][name][kind]:.1%}" for kind in _KINDS)]
        for name, label in _SETS.items()
    ]
    seeds = " / ".join(map(str, summary["seeds"]))
    models = [
        [label, seeds, *(" / ".join(f"{100 * run[name]:.1f}" for run in runs) for name in figures.RECALLS)]
        for label, runs in summary["downstream"].items()
    ]
    recalls = " | ".join(f"{name}, %" for name in figures.RECALLS.values())
    held = table("dataset | rows | matched | mismatched | boilerplate", sets, left=1)
    return f"{took}\n\n{held}\n{table(f'trained on | seeds | {recalls}', models)}"
