"""What a run says of itself: `metrics.jsonl`, and the progress lines of a terminal.

Losses in nats, learnability kept and passed over, speed, the share of time spent waiting for data, and cumulative
floating-point operations.
"""

import json
import logging
import math
import time

import jax
import numpy as np

from schemas import storage
from schemas.errors import DataError
from trainer.config import TrainConfig
from trainer.step import Scored

METRICS_FILE = "metrics.jsonl"
_PROGRESS_SECONDS = 10.0
log = logging.getLogger(__name__)


class Metrics:
    """`metrics.jsonl` and the progress lines: losses, learnability, speed, and time spent waiting for data."""

    def __init__(self, config: TrainConfig, first: int, step_flops: int):
        self._config = config
        self._step_flops = step_flops
        path = storage.as_path(config.workdir) / METRICS_FILE
        kept = path.read_text().splitlines(keepends=True) if path.exists() else []
        # A resumed run logs the steps after its checkpoint again.
        self._file = storage.Journal(path, (line for line in kept if _step_of(line) <= first))
        self._begin = self._since = self._shown = time.monotonic()
        self._first, self._counted, self._stalled = first, first, 0.0

    def waiting(self) -> "Metrics":
        """Times what stands in the `with` block as waiting for data."""
        return self

    def __enter__(self) -> None:
        self._asked = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._stalled += time.monotonic() - self._asked

    def add(self, step: int, loss: jax.Array, scored: Scored | None) -> None:
        """Counts a step; writes a line every `log_every` steps and at the end."""
        done, config = step + 1, self._config
        if done % config.log_every and done != config.steps:
            return
        value = float(loss)  # waits for the step
        if not np.isfinite(value):
            raise DataError(f"step {step}: the loss is {value}; training diverged. Lower learning_rate")
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        line: dict[str, float] = {
            "step": done,
            "loss": value,
            "examples_per_second": (done - self._counted) * config.superbatch_size / seconds,
            "seconds_per_step": seconds / (done - self._counted),
            "input_stall": self._stalled / seconds,
            "flops": done * self._step_flops,  # since the first step, by the paper's accounting
        }
        if scored is not None:
            line["learnability_kept"] = float(scored.learnability_kept)
            if config.superbatch_size > config.batch_size:  # else nothing is passed over
                line["learnability_passed"] = float(scored.learnability_passed)
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._since, self._counted, self._stalled = now, done, 0.0
        if now - self._shown > _PROGRESS_SECONDS or done == config.steps:
            self._shown = now
            left = (now - self._begin) / (done - self._first) * (config.steps - done)
            named = {"learnability_kept": "kept", "learnability_passed": "passed"}
            shown = " ".join(f"{word} {line[name]:+.2f}" for name, word in named.items() if name in line)
            kept = f", learnability {shown}" if shown else ""
            log.info(
                "step %d of %d, loss %.3f%s, %.0f examples/s, %.0f %% waiting for data, %.0f s left",
                done, config.steps, value, kept,
                line["examples_per_second"], 100 * line["input_stall"], left,
            )  # fmt: skip

    def save(self) -> None:
        """Makes the lines so far durable: before each checkpoint, since a resumed run writes none before it again."""
        self._file.save()

    def close(self) -> None:
        """Saves, and closes the file."""
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf
