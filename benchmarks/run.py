"""Runs a benchmark's round and scores it: make the raw data, run every stage, print and write the figures."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import figures
from infra import cli
from infra import round as rounds
from schemas.errors import SuperbatchError


def run(config: Path, make_sources: Callable[[Path], None], credit: str) -> int:
    """Runs a round on sources that `make_sources` puts into `<output>/sources`; returns the exit code."""
    cli.set_up_logging()
    begin = time.monotonic()
    try:
        settings = rounds.read(str(config))
        raw = Path(settings.output) / "sources"
        make_sources(raw)
        done = rounds.run(rounds.RoundConfig(config=str(config)))
        summary = figures.summarise(settings, raw / "truth.json", time.monotonic() - begin)
        page = figures.write(settings, raw / "truth.json", summary, credit)
    except (SuperbatchError, OSError) as error:
        print(f"{config}: {error}", file=sys.stderr)
        return 1
    print(f"\n{rounds.table(done)}\n\n{figures.table(summary)}\n")
    print(credit)
    print(f"Curated dataset: {settings.output}/curated\nFigures and pictures: {page}, {settings.output}/summary.json")
    return 0
