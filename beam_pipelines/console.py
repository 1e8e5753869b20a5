"""What every command does at a terminal: progress to standard error, failures in one line, an exit code.

Imports neither Beam nor jax, so that a command which needs neither starts at once.
"""

import logging
import os
import sys
from collections.abc import Callable

from schemas.errors import Stopped, SuperbatchError

_OURS = ("schemas", "trainer", "beam_pipelines", "infra", "benchmarks")


def set_up_logging() -> None:
    """Our own progress at INFO, libraries' at WARNING; one line each, to standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    for package in _OURS:
        logging.getLogger(package).setLevel(logging.INFO)
    # Orbax and TFDS speak through absl: notices about their own defaults.
    logging.getLogger("absl").setLevel(logging.ERROR)
    # They print the traceback of a failure here, and raise the failure too.
    for library in ("apache_beam.runners.common", "fsspec", "gcsfs"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def run_command(name: str, command: Callable[[], int]) -> int:
    """Runs a command; returns its exit code: 1 for a failure told in one line, 130 if it was interrupted, 0 if it
    stopped on request.

    With SUPERBATCH_TRACEBACK set in the environment, failures keep their traceback.
    """
    set_up_logging()
    try:
        return command()
    except told_in_one_line() as error:
        if os.environ.get("SUPERBATCH_TRACEBACK"):
            raise
        kind = "" if isinstance(error, SuperbatchError) else f"{type(error).__name__}: "
        print(f"{name}: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again to go on where it stopped", file=sys.stderr)
        return 130


def told_in_one_line() -> tuple[type[Exception], ...]:
    """Ours, the system's and, where gcsfs was used, an object store's: what it says when it has retried in vain."""
    gcsfs = sys.modules.get("gcsfs.retry")
    return (SuperbatchError, OSError, *([gcsfs.HttpError] if gcsfs else []))
