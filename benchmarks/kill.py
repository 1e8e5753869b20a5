"""A run that is killed again and again ends as one that never was: the same picks, files and parameters.

    python -m benchmarks.kill --name=cpu

Enters: a generated corpus, a reference's embeddings of it, and a seed that decides the moments. Leaves:
`benchmarks/results/kill-NAME.json`, its place in docs/performance.md, and an exit code: 0 only if all was identical.

`superbatch distill` runs once undisturbed. Then it runs in another workdir, gets SIGKILL at a random moment and is
started again, until it has been killed N times; the last attempt may finish. Moments are drawn over the run's steps:
the command is killed when metrics.jsonl names the step, a random part of a step's time later (which may be inside a
checkpoint, or a commit of selections). Some attempts are killed earlier, while Python starts or the run is set up. The
last kill comes after the last step, while the run saves itself and writes its manifests.
"""

import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import generated, performance_page
from schemas import manifest as manifests
from schemas.storage import TEMPORARY_PREFIX
from trainer.checkpoint import CHECKPOINTS
from trainer.metrics import METRICS_FILE, TENSORBOARD

_POLL_SECONDS = 0.002
_SELECTIONS = "selections"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    name: str = "cpu"  # of the machine, in the result file's name
    kills: int = 20
    seed: int = 0
    steps: int = 40
    checkpoint_every: int = 3
    steps_per_part: int = 5
    starting: float = 0.2  # share of the kills that come before an attempt's first step
    rows: int = 400
    batch_size: int = 16


@dataclass(frozen=True)
class Moment:
    """When to kill: once this step is logged, and a part of a step's (of a start's, of an end's) time after that."""

    step: int | None  # None is while the command starts
    later: float


@dataclass(frozen=True)
class Durations:
    """What an undisturbed run takes, in seconds, with everything compiled."""

    start: float  # until it is set up
    step: float  # with its share of the checkpoints
    end: float  # from the last step to the end of the process


@dataclass(frozen=True)
class Progress:
    """What a workdir says of its run."""

    logged: int  # steps in metrics.jsonl
    saved: int  # the newest checkpoint's step
    journal: int  # changes when an attempt has been set up, since it begins metrics.jsonl anew

    @property
    def lost(self) -> int:
        """Logged steps that have to be made again."""
        return max(self.logged - self.saved, 0)


def moments(options: Options) -> list[Moment]:
    """The moments of the kills, in the order in which they come."""
    rng = random.Random(options.seed)
    early = round(options.kills * options.starting)
    places = sorted(rng.uniform(0, options.steps) for _ in range(options.kills - early - 1))
    drawn = [Moment(int(place), place % 1) for place in places]
    for _ in range(early):
        drawn.insert(rng.randrange(len(drawn) + 1), Moment(None, rng.random()))
    return [*drawn, Moment(options.steps, rng.random())]


def progress(workdir: Path) -> Progress:
    """Reads what lies on disk now."""
    saved = [int(p.name) for p in (workdir / CHECKPOINTS).glob("*") if p.name.isdigit()]
    journal = workdir / METRICS_FILE
    if not journal.exists():
        return Progress(0, max(saved, default=0), 0)
    with journal.open() as file:
        lines = [line for line in file if line.endswith("\n")]
        inode = os.fstat(file.fileno()).st_ino
    return Progress(json.loads(lines[-1])["step"] if lines else 0, max(saved, default=0), inode)


class Distill:
    """`superbatch distill` of one workdir, in processes of its own."""

    def __init__(self, options: Options, made: generated.Artifacts, workdir: Path, cache: Path):
        self.workdir, self._steps = workdir, options.steps
        self._command = [
            *generated.SUPERBATCH, "distill", f"--corpus={made.corpus}", f"--embeddings={made.embeddings}",
            f"--workdir={workdir}", f"--batch_size={options.batch_size}", f"--block_size={options.batch_size}",
            f"--steps={options.steps}", f"--checkpoint_every={options.checkpoint_every}",
            f"--steps_per_part={options.steps_per_part}", "--resolution=32", "--warmup_steps=2", "--log_every=1",
        ]  # fmt: skip
        self._environment = generated.environment(
            JAX_COMPILATION_CACHE_DIR=str(cache), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
        )

    def start(self) -> subprocess.Popen[bytes]:
        """Starts an attempt."""
        return subprocess.Popen(self._command, env=self._environment, stderr=subprocess.PIPE)

    def finish(self) -> Durations:
        """Lets an attempt run to its end.

        Raises:
          RuntimeError: it failed.
        """
        begin, before, ready = time.time(), progress(self.workdir).journal, 0.0
        with self.start() as process:
            while not ready and process.poll() is None:
                time.sleep(_POLL_SECONDS)
                ready = time.time() - begin if progress(self.workdir).journal != before else 0.0
            _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"distill ended with {process.returncode}: {said.decode()}")
        journal = self.workdir / METRICS_FILE
        seconds = [json.loads(line)["seconds_per_step"] for line in journal.read_text().splitlines()]
        # The first two steps compile.
        return Durations(ready, statistics.mean(seconds[2:]), time.time() - journal.stat().st_mtime)

    def kill_at(self, moment: Moment, takes: Durations) -> dict[str, Any] | None:
        """Starts an attempt and kills it; returns where that left the run, or None if it had ended before.

        Raises:
          RuntimeError: the attempt failed by itself.
        """
        before = progress(self.workdir)
        with self.start() as process:
            if moment.step is None:
                time.sleep(moment.later * takes.start)
            else:
                while process.poll() is None and not _reached(progress(self.workdir), before, moment.step):
                    time.sleep(_POLL_SECONDS)
                time.sleep(moment.later * (takes.end if moment.step == self._steps else takes.step))
            process.kill()
            _, said = process.communicate()
        if process.returncode == 0:
            return None
        if process.returncode != -9:
            raise RuntimeError(f"distill ended with {process.returncode}: {said.decode()}")
        after = progress(self.workdir)
        set_up = after.journal != before.journal
        return {
            "step": after.logged if set_up else None,
            "saved": after.saved,
            "lost": after.lost if set_up else 0,
        }


def _reached(now: Progress, before: Progress, step: int) -> bool:
    return now.journal != before.journal and now.logged >= step


def differences(killed: Path, whole: Path) -> list[str]:
    """What a run that was killed left otherwise than one that was not; empty if all is the same.

    Compared are both fingerprints (the model's covers its parameters), the bytes of every file of the selections but
    the manifest, which tells the time, and the names of all files. Temporary files are reported too.
    """
    found = []
    for part in ("", _SELECTIONS):
        ours, theirs = (manifests.read(str(folder / part)).fingerprint for folder in (killed, whole))
        if ours != theirs:
            found.append(f"fingerprint of {part or 'the model'}: {ours}, not {theirs}")
    found += [f"{name}: left behind" for name in names(killed) if is_temporary(name)]
    ours, theirs = ({name for name in names(folder) if not is_temporary(name)} for folder in (killed, whole))
    found += [f"{name}: in one of the two only" for name in sorted(ours ^ theirs)]
    for name in sorted(ours & theirs):
        of_picks = name.startswith(f"{_SELECTIONS}/") and not name.endswith(manifests.FILE_NAME)
        if of_picks and (killed / name).read_bytes() != (whole / name).read_bytes():
            found.append(f"{name}: other bytes")
    return found


def names(workdir: Path) -> list[str]:
    """The names of a workdir's files, but for those that hold a clock time or a random number.

    TensorBoard's hold the time; inside a checkpoint's folder Orbax chooses them, so such a folder is one name.
    """
    found = {path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()}
    top = [name.parts[0] for name in found]
    whole = {CHECKPOINTS: 2, TENSORBOARD: 1}
    return sorted({"/".join(name.parts[: whole.get(first)]) for name, first in zip(found, top, strict=True)})


def is_temporary(name: str) -> bool:
    """Whether this is a name under which nothing durable stands: ours, or Orbax's."""
    return any(part.startswith(TEMPORARY_PREFIX) or "orbax-checkpoint-tmp" in part for part in Path(name).parts)


def measure(options: Options, scratch: Path) -> dict[str, Any]:
    """Runs undisturbed, then killed, and compares."""
    made = generated.make(scratch, count=options.rows, pixels=64, resolution=32, shards=2)
    whole, again, killed = (
        Distill(options, made, scratch / name, scratch / "jax") for name in ("whole", "again", "killed")
    )
    whole.finish()  # compiles
    takes, attempts = again.finish(), []
    for moment in moments(options):
        attempt = killed.kill_at(moment, takes)
        if attempt is None:
            break
        attempts.append(attempt)
        print(attempt, flush=True)
    killed.finish()
    found = differences(killed.workdir, whole.workdir)
    found += [f"undisturbed, again: {difference}" for difference in differences(again.workdir, whole.workdir)]
    return {
        "machine": {"cores": os.cpu_count()},
        "seed": options.seed,
        "steps": options.steps,
        "checkpoint_every": options.checkpoint_every,
        "steps_per_part": options.steps_per_part,
        "seconds": dataclasses.asdict(takes),
        "asked": options.kills,
        "kills": attempts,
        "differences": found,
        "fingerprints": {
            "model": manifests.read(str(killed.workdir)).fingerprint,
            "selections": manifests.read(str(killed.workdir / _SELECTIONS)).fingerprint,
        },
    }


def main(options: Options) -> int:
    """Measures, keeps the figures, and writes the page anew; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"kill-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()
    return 1 if result["differences"] or not result["kills"] else 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Options, description=__doc__)))
