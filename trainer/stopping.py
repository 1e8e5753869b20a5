"""Stopping a run on request: SIGTERM, as clusters send before they take a machine back.

Enters: a signal. Leaves: an answer to "shall we stop after this step?", the same in every process of the run, so that
all of them save the same step.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Gives a function of the step that says whether a stop was requested; while inside, SIGTERM does not kill.

    Of several processes JAX itself catches the signal, in any of them, and agrees with the others on a step at which
    all stop; it must therefore be asked once a step in every process.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield lambda _: False
        return
    requested = threading.Event()

    def handle(*_: object) -> None:
        log.info("SIGTERM: stopping after this step")
        requested.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield lambda _: requested.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
