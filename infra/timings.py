"""How long the stages of a round took: `timings.jsonl` in its output, one line for every time that a stage really ran.

Enters: the round's output and a stage. Leaves: a line with the stage, when it began, its seconds, whether it completed,
and on how many cores. A stage that finds its output complete leaves none, so the file outlives any number of reruns; an
attempt that failed or was stopped leaves one too, since its seconds were spent. `superbatch plan --actual` reads them.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pydantic

from schemas import manifest as manifests
from schemas import storage

FILE_NAME = "timings.jsonl"
_AT_ONCE = 1.0  # seconds within which a stage is refused rather than stopped
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One run of one stage."""

    stage: str
    began: str
    seconds: float
    completed: bool
    cores: int | None = None


@contextlib.contextmanager
def timed(output: str, stage: str, artifact: str) -> Iterator[None]:
    """Times the stage in the `with` block, and keeps its seconds if it did anything.

    Args:
      output: of the round.
      stage: its name.
      artifact: what it makes: a directory that ends with a manifest, or a file.
    """
    before, began, begin = _stamp(artifact), datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def note(completed: bool) -> None:
        seconds = round(time.monotonic() - begin, 3)
        _append(output, Timing(stage=stage, began=began, seconds=seconds, completed=completed, cores=os.cpu_count()))

    try:
        yield
    except BaseException:
        if time.monotonic() - begin > _AT_ONCE:
            with contextlib.suppress(OSError):  # a full disk may be what stopped the stage
                note(completed=False)
        raise
    if _stamp(artifact) != before:
        note(completed=True)


def read(output: str) -> list[Timing]:
    """Every line, in order; lines that are none (cut off when a machine died) are passed over."""
    path = storage.as_path(output) / FILE_NAME
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            found.append(pydantic.TypeAdapter(Timing).validate_json(line))
        except pydantic.ValidationError:
            log.warning("%s: line %d is no timing, and is passed over", path, number)
    return found


def actual(timings: list[Timing]) -> dict[str, float]:
    """Seconds by stage: of its last complete run and of the attempts at it since the complete one before.

    A stage that never completed is missing.
    """
    found: dict[str, float] = {}
    spent: dict[str, float] = {}
    for timing in timings:
        seconds = spent.get(timing.stage, 0.0) + timing.seconds
        if timing.completed:
            found[timing.stage] = seconds
        spent[timing.stage] = 0.0 if timing.completed else seconds
    return found


def _stamp(artifact: str) -> str | None:
    """Tells one completion of an artifact from another; None if it is not complete."""
    path = storage.as_path(artifact)
    if path.suffix != ".json":
        path = path / manifests.FILE_NAME
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _append(output: str, timing: Timing) -> None:
    # An object store cannot append, and the file is small: it is written whole.
    path = storage.as_path(output) / FILE_NAME
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    storage.replace(path, before + json.dumps(asdict(timing)).encode() + b"\n")
