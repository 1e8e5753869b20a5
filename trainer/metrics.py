"""What a run says of itself: `metrics.jsonl`, TensorBoard's event files, and the progress lines of a terminal.

Losses and learnability in nats, speed, where the time of a step goes, floating-point operations since the first step,
and what evaluations measured. Files are written on this machine and, where the workdir is an object store, sent there
whenever the run is saved.
"""

import contextlib
import json
import logging
import math
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter

from schemas import storage
from schemas.errors import DataError
from trainer import parallel
from trainer.config import TrainConfig
from trainer.flops import Operations
from trainer.step import Scored

METRICS_FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"
# Where a step's time goes: waiting for data, sending it and starting the step, waiting for its results, and the rest.
PHASES = ("input", "dispatch", "compute", "log", "checkpoint", "evaluate")
_PROGRESS_SECONDS = 10.0
log = logging.getLogger(__name__)


class Metrics:
    """The numbers of one run. Only the first of several processes writes them."""

    def __init__(self, config: TrainConfig, first: int, step: Operations):
        self._config, self._operations = config, step
        self._files = _Files(config.workdir, first) if parallel.is_primary() else None
        self._since = self._shown = time.monotonic()
        self._counted = first
        self._warm: tuple[int, float] | None = None  # the step since which the time left is reckoned
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time in the `with` block as this phase's."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - begin

    def add(self, step: int, loss: jax.Array, scored: Scored | None) -> None:
        """Counts a step; writes a line every `log_every` steps and at the end.

        Raises:
          DataError: the loss is not finite.
        """
        done, config = step + 1, self._config
        if self._warm is None:  # the first step of a process is compiled first
            jax.block_until_ready(loss)
            self._warm = done, time.monotonic()
        if done % config.log_every and done != config.steps:
            return
        with self.phase("compute"):
            value = float(loss)  # waits for the step
        if not np.isfinite(value):
            raise DataError(f"step {step}: the loss is {value}; training diverged. Lower learning_rate")
        now = time.monotonic()
        seconds, steps = max(now - self._since, 1e-9), done - self._counted
        examples = steps * config.superbatch_size / seconds
        line: dict[str, float] = {
            "step": done,
            "loss": value,
            "examples_per_second": examples,
            "examples_per_second_per_device": examples / jax.device_count(),
            "seconds_per_step": seconds / steps,
            "input_stall": self._seconds["input"] / seconds,
            "flops": done * self._operations.counted,
            "flops_xla": done * self._operations.measured,
        }
        line |= {f"seconds_{phase}": self._seconds[phase] / steps for phase in PHASES if phase in self._seconds}
        if scored is not None:
            line["learnability_kept"] = float(scored.learnability_kept)
            if config.superbatch_size > config.batch_size:  # else nothing is passed over
                line["learnability_passed"] = float(scored.learnability_passed)
        self._write(line)
        self._since, self._counted = now, done
        self._seconds.clear()
        if now - self._shown > _PROGRESS_SECONDS or done == config.steps:
            self._shown = now
            self._show(line, now)

    def evaluated(self, step: int, figures: dict[str, float]) -> None:
        """Writes down what an evaluation after this step measured."""
        if figures:
            self._write({"step": step + 1} | {f"evaluation/{name}": value for name, value in figures.items()})
            named = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            log.info("step %d, evaluation: %s", step + 1, named)

    def save(self) -> None:
        """Makes sure that what was written outlives the process."""
        if self._files is not None:
            self._files.save()

    def close(self) -> None:
        """Closes the files, and sends them for the last time."""
        if self._files is not None:
            self._files.close()

    def _write(self, line: dict[str, float]) -> None:
        if self._files is not None:
            self._files.write(line)

    def _show(self, line: dict[str, float], now: float) -> None:
        if self._files is None:
            return
        left = ""
        if self._warm is not None and line["step"] > self._warm[0]:
            step, since = self._warm
            left = f", {_duration((now - since) / (line['step'] - step) * (self._config.steps - line['step']))} left"
        named = {"learnability_kept": "kept", "learnability_passed": "passed"}
        shown = " ".join(f"{word} {line[name]:+.2f}" for name, word in named.items() if name in line)
        log.info(
            "step %d of %d, loss %.3f%s, %.0f examples/s, %.0f %% waiting for data%s",
            line["step"], self._config.steps, line["loss"], f", learnability {shown}" if shown else "",
            line["examples_per_second"], 100 * line["input_stall"], left,
        )  # fmt: skip


class _Files:
    """`metrics.jsonl` and TensorBoard's files."""

    def __init__(self, workdir: str, first: int):
        path = storage.as_path(workdir) / METRICS_FILE
        kept = path.read_text().splitlines(keepends=True) if path.exists() else []
        # A resumed run logs the steps after its checkpoint again.
        self._lines = storage.Journal(path, (line for line in kept if _step_of(line) <= first))
        self._board_folder = storage.as_path(workdir) / TENSORBOARD
        # Its writer knows only local files.
        self._remote = storage.is_remote(workdir)
        self._local = Path(tempfile.mkdtemp(prefix="superbatch-")) if self._remote else Path(self._board_folder)
        self._board = SummaryWriter(str(self._local), purge_step=first + 1)

    def write(self, line: dict[str, float]) -> None:
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in line.items():
            if name != "step":
                self._board.add_scalar(name, value, int(line["step"]))

    def save(self) -> None:
        self._lines.save()
        self._board.flush()
        if self._remote:
            for name in storage.relative_files(self._local):
                storage.replace(self._board_folder / name, (self._local / name).read_bytes())

    def close(self) -> None:
        self._board.close()
        self.save()
        self._lines.close()
        if self._remote:
            shutil.rmtree(self._local, ignore_errors=True)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf
