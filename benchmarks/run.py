"""Runs a benchmark's round and scores it: make the raw data, run every stage, print the figures, write the report."""

import time
from collections.abc import Callable
from pathlib import Path

from beam_pipelines import console
from benchmarks import figures
from infra import round as rounds
from infra.report import command as report


def run(config: Path, make_sources: Callable[[Path], None], credit: str) -> int:
    """Runs a round on sources that `make_sources` puts into `<output>/sources`; returns the exit code."""
    return console.run_command(str(config), lambda: _run(config, make_sources, credit))


def _run(config: Path, make_sources: Callable[[Path], None], credit: str) -> int:
    begin = time.monotonic()
    settings = rounds.read(str(config))
    raw = Path(settings.output) / "sources"
    make_sources(raw)
    done = rounds.run(rounds.RoundConfig(config=str(config)))
    summary = figures.summarise(settings, raw / "truth.json", time.monotonic() - begin)
    written = figures.write(settings, summary)
    page = report.run(report.ReportConfig(directory=settings.output, output=f"{settings.output}/{report.FILE_NAME}"))
    print(f"\n{rounds.table(done)}\n\n{figures.table(summary)}\n")
    print(credit)
    print(f"Curated dataset: {settings.output}/curated\nFigures: {written}\nPictures and curves: {page.path}")
    return 0
