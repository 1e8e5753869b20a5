"""`make demo`: a whole round on OpenMoji's pictures."""

import sys
from pathlib import Path

from benchmarks import run
from benchmarks.openmoji import sources


def main() -> int:
    """Runs the demo; returns the exit code."""
    return run.run(Path(__file__).parent / "round.toml", sources.make, sources.CREDIT)


if __name__ == "__main__":
    sys.exit(main())
