"""How far a job has come: a line in the log every few seconds, and counters for the runner's page.

A process knows its own share of the work only; on one machine with one process that is all of it. Nothing that a job
leaves on disk comes from here: a runner that tries a step again counts it again.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable

from apache_beam.metrics.metric import Metrics

_SECONDS = 10.0  # between two lines
_lock = threading.Lock()
_started: dict[tuple[str, str], "Progress"] = {}


class Progress:
    """Rows, parts (shards, or a source's tasks) and rejections of one stage in this process."""

    def __init__(self, stage: str, part: str, parts: int, rows: int | None = None):
        self.stage, self._part, self._parts, self._rows = stage, part, parts, rows
        self._begin = self._shown = time.monotonic()
        self._done = Counter[str]()
        self._taken_up = Counter[str]()
        self._rejected = Counter[str]()

    def count(self, rows: int, rejected: Iterable[str] = ()) -> str | None:
        """Counts rows that were dealt with; returns a line to log if it is time for one.

        Args:
          rows: how many, the rejected ones among them.
          rejected: the reason of each that was rejected.
        """
        reasons = Counter(rejected)
        with _lock:
            self._done["rows"] += rows
            self._rejected += reasons
            line = self._line() if time.monotonic() - self._shown > _SECONDS else None
        Metrics.counter(self.stage, "rows").inc(rows)
        for reason, times in reasons.items():
            Metrics.counter(self.stage, f"rejected: {reason}").inc(times)
        return line

    def finish_part(self, taken_up: int | None = None) -> None:
        """Counts a part that is complete; or of which an earlier attempt had done so many rows."""
        with _lock:
            self._done["parts"] += 1
            if taken_up is not None:
                self._done["rows"] += taken_up
                self._taken_up += Counter(parts=1, rows=taken_up)
        Metrics.counter(self.stage, f"{self._part}s").inc()

    def _line(self) -> str:
        self._shown = time.monotonic()
        elapsed = self._shown - self._begin
        rate = (self._done["rows"] - self._taken_up["rows"]) / elapsed
        rows = f"{self._done['rows']:,}" + (f" of {self._rows:,}" if self._rows is not None else "")
        parts = f"{self._done['parts']} of {self._parts} {self._part}s"
        rejected = ", ".join(f"{times:,} {reason}" for reason, times in self._rejected.most_common())
        return (
            f"{self.stage}: {parts}, {rows} rows, {rate:,.0f} rows/s{self._left(elapsed)}"
            f"{'; rejected: ' + rejected if rejected else ''}"
        )

    def _left(self, elapsed: float) -> str:
        unit, total = ("parts", self._parts) if self._rows is None else ("rows", self._rows)
        made = self._done[unit] - self._taken_up[unit]
        if made <= 0:
            return ""
        seconds = round((total - self._done[unit]) * elapsed / made)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f", about {f'{hours} h {minutes} min' if hours else f'{minutes} min {seconds % 60} s'} left"


def of(stage: str, output: str, part: str, parts: int, rows: int | None = None) -> Progress:
    """Returns this process's progress with a stage that writes to `output`, begun if it is the first to ask.

    Args:
      stage: the name of the stage.
      output: where it writes: one process may run several jobs.
      part: what the work is cut into, in the singular.
      parts: how many there are.
      rows: how many rows there are in all; None if that is not known.
    """
    with _lock:
        return _started.setdefault((stage, output), Progress(stage, part, parts, rows))


def forget() -> None:
    """Begins anew: a process may run a job again."""
    with _lock:
        _started.clear()
