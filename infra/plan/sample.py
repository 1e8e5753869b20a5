"""Some rows of a raw source, evenly over its files: as a source that `ingest` reads like any other.

Enters: what `--source` names. Leaves: how many rows it holds (counted, or reckoned from some of its files), how large
they are, and a `SampledIngest` whose job reads a few rows of many files instead of all.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from beam_pipelines.ingest_config import IngestConfig
from beam_pipelines.sources import RawPair, Source, Task
from schemas import access

_COUNT_SECONDS = 10.0
_TASKS = 16


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What is known of a raw source without ingesting it."""

    rows: int
    counted: bool  # else reckoned from some of its tasks
    tasks: int
    row_bytes: float  # image and text of a row, as stored there
    read_seconds: float  # of a row: opening and parsing, before anything is done with it


@dataclass(frozen=True)
class Sampled:
    """A source of which only the first rows of some tasks are read."""

    source: Source
    tasks: list[Task]
    per_task: int

    def list_tasks(self, address: str) -> list[Task]:
        """The tasks of the sample."""
        del address  # they were listed already
        return self.tasks

    def read(self, task: Task) -> Iterator[RawPair]:
        """The first pairs of a task."""
        return itertools.islice(self.source.read(task), self.per_task)


@dataclass(frozen=True, kw_only=True)
class SampledIngest(IngestConfig):
    """An ingest of a sample."""

    tasks: list[Task] = dataclasses.field(default_factory=list)
    per_task: int = 0

    def parse_source(self) -> tuple[Source, str]:
        """The format that is read, and where it lies."""
        source, address = super().parse_source()
        return Sampled(source, self.tasks, self.per_task), address


def count(config: IngestConfig) -> Raw:
    """Counts a source's rows; of one that takes more than ten seconds to read, from whole tasks over all of it.

    Raises:
      DataError: there is no such source, or it cannot be read.
    """
    source, address = config.parse_source()
    access.check(address)
    tasks = source.list_tasks(address)
    rows, size, read, begin = 0, 0, 0, time.monotonic()
    for task in _spread(tasks):
        for pair in source.read(task):
            rows += 1
            size += len(pair.image) + len(pair.text.encode())
        read += 1
        if time.monotonic() - begin > _COUNT_SECONDS:
            break
    seconds = time.monotonic() - begin
    total = rows if read == len(tasks) else round(rows / read * len(tasks))
    each = max(rows, 1)
    return Raw(
        rows=total, counted=read == len(tasks), tasks=len(tasks), row_bytes=size / each, read_seconds=seconds / each
    )


def take(config: IngestConfig, raw: Raw, rows: int) -> SampledIngest:
    """An ingest of about so many rows, evenly over at most sixteen of the source's tasks; of all rows if it has fewer.

    Tasks may be shorter than most, so there may come fewer.
    """
    source, address = config.parse_source()
    listed = source.list_tasks(address)
    everything = rows >= raw.rows
    tasks = listed if everything else sorted(itertools.islice(_spread(listed), _TASKS), key=lambda task: task.index)
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(IngestConfig)}
    return SampledIngest(**fields, tasks=tasks, per_task=raw.rows if everything else -(-rows // len(tasks)))


def _spread(tasks: list[Task]) -> Iterator[Task]:
    """All tasks, so that those that have come at any time lie evenly over the source: by bits, lowest first."""
    bits = max(1, (len(tasks) - 1).bit_length())
    for number in range(1 << bits):
        place = int(f"{number:0{bits}b}"[::-1], 2)
        if place < len(tasks):
            yield tasks[place]
