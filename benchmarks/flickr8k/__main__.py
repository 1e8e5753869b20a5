"""`make flickr8k FLICKR8K=folder`: the demo's round on real photos; prints the same figures."""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import run
from benchmarks.flickr8k import sources


@dataclass(frozen=True)
class Flickr8kConfig:
    """Run a round on Flickr8k with injected noise."""

    data: Path
    """folder with train-*.tar and dev-*.tar"""


def main() -> int:
    """Runs the round; returns the exit code."""
    config = tyro.cli(Flickr8kConfig, prog="python -m benchmarks.flickr8k")
    make = functools.partial(sources.make, data=config.data)
    return run.run(Path(__file__).parent / "round.toml", make, sources.CREDIT)


if __name__ == "__main__":
    sys.exit(main())
