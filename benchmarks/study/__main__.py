"""`python -m benchmarks.study`: runs what is missing of the study, several runs at a time; may be stopped at will."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from beam_pipelines import console
from benchmarks.study import experiments, schedule
from benchmarks.study.runs import label
from benchmarks.study.store import RESULTS, Store
from schemas.errors import ConfigError

Corpus = Literal["openmoji", "flickr8k"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Put the paper's claims to the test; what is stored in --results already is not run again."""

    corpora: tuple[Corpus, ...] = ("openmoji", "flickr8k")
    """what to learn from; openmoji comes with a package"""
    data: Path | None = None
    """folder of Flickr8k's train-*.tar and dev-*.tar"""
    questions: tuple[str, ...] = tuple(experiments.ALL)
    """which to answer"""
    seeds: int = 3
    """seeds of every run, counted from 1; seed 0 is for choosing settings alone"""
    scratch: Path = Path("build/study")
    """folder for parameters and picks, which later runs read"""
    results: Path = RESULTS
    """folder for the records"""
    workers: int = 0
    """runs at a time, on one core each; 0 is one for every core, or one where there is an accelerator"""
    list: bool = False
    """say what there is to run, and run nothing"""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.questions) - set(experiments.ALL))
        if unknown:
            raise ConfigError(f"questions has {', '.join(unknown)}; there are {', '.join(experiments.ALL)}")
        if self.seeds < 1 or self.workers < 0:
            raise ConfigError(f"seeds is {self.seeds} and workers {self.workers}; at least 1 seed and 0 workers it is")
        if "flickr8k" in self.corpora and self.data is None:
            raise ConfigError("flickr8k needs --data, the folder of its tars; or leave it out: --corpora openmoji")


def main() -> int:
    """Runs the study; returns the exit code."""
    return console.run_command("study", lambda: _run(tyro.cli(StudyConfig, prog="python -m benchmarks.study")))


def _run(config: StudyConfig) -> int:
    store = Store(config.results)
    asked = (
        run
        for question in config.questions
        for corpus in config.corpora
        for run in experiments.ALL[question](corpus, range(1, config.seeds + 1))
    )
    runs = schedule.with_needs(asked)
    todo = schedule.missing(runs, store, config.scratch)
    log.info("%d runs, %d of them to do", len(runs), len(todo))
    if config.list:
        print("\n".join(f"{'missing' if run in todo else 'done':<8} {label(run)}" for run in runs))
        return 0
    if todo:
        schedule.carry_out(todo, store, config.data, config.scratch, config.workers)
    print(f"study: {len(runs)} runs complete, {len(todo)} of them now; records in {config.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
