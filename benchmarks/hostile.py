"""Ten thousand hostile inputs: none may crash `ingest`, hang it, disappear in it, or leave anything elsewhere.

    python -m benchmarks.hostile --name=cpu

Enters: a number of cases and a seed (`tests/hostile` makes them). Leaves: `benchmarks/results/hostile-NAME.json`, its
place in docs/performance.md, and an exit code: 0 only if every check held. Pairs come in sound containers of three
formats, in equal numbers, and each must be accounted for at its place; then come damaged containers.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import performance_page
from tests.hostile import check, containers, pairs


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    name: str = "cpu"  # of the machine, in the result file's name
    cases: int = 10_000
    containers: int = 300  # of each format
    seed: int = 0
    seconds: int = 3600  # that one source may take


def measure(options: Options, scratch: Path) -> dict[str, Any]:
    """Ingests everything; returns what became of it, and what is wrong."""
    outcomes: dict[str, check.Outcome] = {}
    for number, format_ in enumerate(pairs.FORMATS):
        count = options.cases // len(pairs.FORMATS) + (number < options.cases % len(pairs.FORMATS))
        written = pairs.write(scratch / "raw" / format_, format_, count, options.seed)
        outcomes[format_] = check.ingest(written.source, scratch / format_, written.places, options.seconds)
    for source in containers.write(scratch / "damaged", options.containers, options.seed):
        name = f"damaged {source.partition(':')[0]}"
        outcomes[name] = check.ingest(source, scratch / name.replace(" ", "-"), None, options.seconds)
    return {
        "machine": {"cores": os.cpu_count()},
        "cases": options.cases,
        "containers": options.containers,
        "seed": options.seed,
        "rows": [
            {
                "source": name,
                **(outcome.counts.model_dump(mode="json") if outcome.counts else {}),
                "seconds": outcome.seconds,
                "peak_bytes": outcome.peak_bytes,
            }
            for name, outcome in outcomes.items()
        ],
        "rejected": dict(sum((Counter(o.counts.rejected) for o in outcomes.values() if o.counts), Counter())),
        "problems": [problem for outcome in outcomes.values() for problem in outcome.problems],
    }


def main(options: Options) -> int:
    """Measures, keeps the figures, and writes the page anew; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"hostile-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Options, description=__doc__)))
