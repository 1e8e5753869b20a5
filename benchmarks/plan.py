"""Does `superbatch plan` foresee what a round takes? The demo's round, planned and then run on this machine.

    python -m benchmarks.plan --name=cpu

Enters: the demo's raw data, made anew. Leaves: `benchmarks/results/plan-NAME.json` and its place in
docs/performance.md. In turns, each in a process of its own and from nothing: `superbatch plan`, `superbatch round`,
`superbatch plan --actual`; then a plan again, since a shared machine's mood changes while a round runs: both plans are
held against the round's seconds.
"""

import json
import os
import shutil
import statistics
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import generated, performance_page, selection
from benchmarks.openmoji import sources

_ROUND = Path(__file__).parent / "openmoji" / "round.toml"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: str = "cpu"  # of the machine, in the result file's name
    repeats: int = 1  # rounds
    downstream_seeds: int | None = None  # fewer than the demo's, for a quick look


def round_file(folder: Path, downstream_seeds: int | None) -> Path:
    """The demo's round with its raw data and output under a folder."""
    text = _ROUND.read_text().replace("build/demo", str(folder))
    if downstream_seeds is not None:
        seeds = tomllib.loads(text)["downstream_seeds"]
        text = text.replace(f"downstream_seeds = {seeds}", f"downstream_seeds = {seeds[:downstream_seeds]}")
    path = folder / "round.toml"
    path.write_text(text)
    return path


def compare(folder: Path, downstream_seeds: int | None) -> dict[str, Any]:
    """Plans, runs and compares a round; plans again."""
    sources.make(folder / "sources")
    path = round_file(folder, downstream_seeds)
    load = [os.getloadavg()[0]]
    planned = [_plan(path, folder / "before.json")]
    generated.superbatch("round", f"--config={path}")
    compared = json.loads(generated.said("plan", f"--config={path}", "--actual", "--json"))
    load.append(os.getloadavg()[0])
    planned.append(_plan(path, folder / "after.json"))
    load.append(os.getloadavg()[0])
    return {
        "stages": compared["stages"], "total": compared["total"], "ratio": compared["ratio"],
        "ratio_after": planned[1]["seconds"] / compared["total"]["actual"],
        "rehearsal_seconds": [plan["rehearsal"] for plan in planned], "load": load,
    }  # fmt: skip


def _plan(path: Path, kept: Path) -> dict[str, float]:
    plan = json.loads(generated.said("plan", f"--config={path}", "--rows=", "--json"))
    kept.write_text(json.dumps(plan))
    return {"seconds": plan["scenarios"][0]["seconds"], "rehearsal": plan["measured"]["seconds"]}


def measure(options: Options) -> dict[str, Any]:
    """All rounds."""
    rounds = []
    for _ in range(options.repeats):
        folder = Path(tempfile.mkdtemp(prefix="superbatch-"))
        try:
            rounds.append(compare(folder, options.downstream_seeds))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    ratios = [made[which] for made in rounds for which in ("ratio", "ratio_after")]
    return {"machine": selection.machine(), "rounds": rounds, "ratio": statistics.median(ratios)}


def main(options: Options) -> None:
    """Measures, keeps the figures, and writes the page anew."""
    result = measure(options)
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"plan-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
