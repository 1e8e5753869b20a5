"""`--profile`: a trace of a few steps, once they run at speed.

Leaves: `WORKDIR/profile`, which TensorBoard's profiler opens, and a trace for ui.perfetto.dev in it.
"""

import contextlib
import logging
from collections.abc import Iterator

import jax

from schemas import storage
from trainer.config import TrainConfig

_SKIPPED = 3  # the first steps compile, and fill the queues
_TRACED = 5
log = logging.getLogger(__name__)


class Profiler:
    """Traces steps 3 to 7 after the first of this process; the last ones of a run that has fewer."""

    def __init__(self, config: TrainConfig, first: int):
        self._directory = str(storage.as_path(config.workdir) / "profile")
        left = config.steps - first
        self._begin = first + min(_SKIPPED, max(0, left - 1)) if config.profile and left else None
        self._end = first + min(_SKIPPED + _TRACED, left)
        self._running = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Names the step in the trace, and begins or ends the trace around it."""
        if step == self._end:
            self.close()
        if step == self._begin:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._running = True
        with jax.profiler.StepTraceAnnotation("step", step_num=step):
            yield

    def close(self) -> None:
        """Ends the trace and writes it."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("profile: a trace is in %s", self._directory)
