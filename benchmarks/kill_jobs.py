"""The Beam jobs, killed again and again, end as if they had not been: the same files, to the byte.

    python -m benchmarks.kill_jobs --name=cpu --kills=30

Enters: generated tar files, a reference and a distill run, and a seed that decides the moments. Leaves:
`benchmarks/results/kill_jobs-NAME.json`, its place in docs/performance.md, and an exit code: 0 only if nothing differs.

`ingest`, `embed` and `curate` (with controls) each run once undisturbed. Then the same command gets SIGKILL and is
started again in the same directory. A moment is drawn as a number of files that the attempt commits first, and a random
part of the time between two of them after that (which may be inside another file); some attempts are killed earlier,
while Python starts. When an attempt ends before its moment has come, what it left is compared, and the next one begins
in an empty directory. The last attempt may finish. All runs of a job have the same output directory, one after another,
because a manifest records it.
"""

import dataclasses
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_pipelines.job import WORK_DIRECTORY
from benchmarks import generated, kill, performance_page
from schemas import manifest as manifests

_POLL_SECONDS = 0.002
_ROWS_PER_TAR = 100
_CLOCK = ("created", "checksum")  # of a manifest: the second covers the first


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    name: str = "cpu"  # of the machine, in the result file's name
    kills: int = 30  # of all jobs together
    seed: int = 0
    starting: float = 0.2  # share of the kills that come before an attempt's work begins
    rows: int = 1200
    shards: int = 8


@dataclass(frozen=True)
class Undisturbed:
    """What an undisturbed run takes."""

    start: float  # seconds until the first file
    work: float  # seconds from there to the end
    files: int  # committed, those that are removed at the end included


@dataclass(frozen=True)
class Job:
    """A command, and the directory below which all that it makes lies."""

    name: str
    arguments: list[str]
    made: Path

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts an attempt."""
        command = [*generated.SUPERBATCH, self.name, *self.arguments]
        return subprocess.Popen(
            command, env=generated.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )  # fmt: skip

    def committed(self) -> int:
        """Counts the files that stand under their final names."""
        return sum(not kill.is_temporary(name) for _, _, names in os.walk(self.made) for name in names)


def jobs(options: Options, scratch: Path) -> list[Job]:
    """The three jobs; each reads what an undisturbed run of the one before has made."""
    out, inputs = scratch / "out", scratch / "inputs"
    corpus, reference, distilled = inputs / "ingest/corpus", scratch / "reference", scratch / "distill"
    shards = f"--shards={options.shards}"
    return [
        Job(
            "ingest",
            [f"--source=webdataset:{scratch}/tars/*.tar", "--name=pairs", f"--output={out}/ingest/corpus", shards],
            out / "ingest",
        ),
        Job(
            "embed",
            [f"--corpus={corpus}", f"--reference={reference}", f"--output={out}/embed/embeddings"],
            out / "embed",
        ),
        Job(
            "curate",
            [
                f"--corpus={corpus}",
                f"--selections={distilled}",
                f"--output={out}/curate/curated",
                shards,
                f"--control={out}/curate/control",
                "--budget=200",
            ],
            out / "curate",
        ),
    ]


def write_tars(folder: Path, count: int, pixels: int) -> None:
    """Writes generated pairs as WebDataset, a hundred to a file."""
    folder.mkdir()
    for number, pair in enumerate(generated.pairs(count, pixels)):
        with tarfile.open(folder / f"{number // _ROWS_PER_TAR:05d}.tar", "a") as tar:
            for suffix, content in ((".jpg", pair.image), (".txt", pair.text.encode())):
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def prepare(name: str, made: Path, scratch: Path) -> None:
    """Makes what the next job reads, from what an undisturbed run of this one made."""
    train = ["--batch_size=16", "--block_size=16", "--resolution=32", "--warmup_steps=0"]
    corpus = f"--corpus={made / 'corpus'}"
    if name == "ingest":
        generated.superbatch("train", corpus, f"--workdir={scratch / 'reference'}", "--steps=1", *train)
    if name == "embed":
        generated.superbatch(
            "distill", f"--corpus={scratch}/inputs/ingest/corpus", f"--embeddings={made / 'embeddings'}",
            f"--workdir={scratch / 'distill'}", "--steps=30", *train,
        )  # fmt: skip


def measure(options: Options, scratch: Path) -> dict[str, Any]:
    """Runs every job undisturbed, then killed, and compares."""
    write_tars(scratch / "tars", options.rows, pixels=128)
    rng, results = random.Random(options.seed), []
    (scratch / "inputs").mkdir()
    found = jobs(options, scratch)
    for number, job in enumerate(found):
        takes = _undisturbed(job)
        whole = job.made.rename(scratch / "inputs" / job.name)
        prepare(job.name, whole, scratch)
        kills = (options.kills * (number + 1)) // len(found) - (options.kills * number) // len(found)
        results.append(_killed(job, whole, kills, takes, rng, options.starting))
    return {
        "machine": {"cores": os.cpu_count()},
        "seed": options.seed,
        "rows": options.rows,
        "shards": options.shards,
        "asked": options.kills,
        "jobs": results,
    }


def _undisturbed(job: Job) -> Undisturbed:
    """Runs a job to its end.

    Raises:
      RuntimeError: it failed.
    """
    begin, before, ready, most = time.monotonic(), job.committed(), 0.0, 0
    with job.start() as process:
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            most = max(most, job.committed())
            ready = ready or (time.monotonic() if most > before else 0.0)
        _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{job.name} ended with {process.returncode}: {said.decode()}")
    return Undisturbed(ready - begin, time.monotonic() - ready, most - before)


def _killed(job: Job, whole: Path, kills: int, takes: Undisturbed, rng: random.Random, starting: float) -> Any:
    attempts: list[dict[str, Any]] = []
    compared, found = 0, []
    while len(attempts) < kills:
        files = None if rng.random() < starting else rng.randrange(1, takes.files + 1)
        left = _kill_at(job, files, rng.random() * (takes.start if files is None else takes.work / takes.files))
        if left is not None:
            attempts.append(left)
            print(job.name, left, flush=True)
            continue
        compared, found = compared + 1, found + differences(job.made, whole)
        job.made.rename(job.made.with_name(f"{job.name}-{compared}"))
    _undisturbed(job)
    found += differences(job.made, whole)
    return {
        "job": job.name,
        "undisturbed": dataclasses.asdict(takes),
        "kills": attempts,
        "compared": compared + 1,
        "differences": found,
        "fingerprints": {
            path.parent.relative_to(job.made).as_posix(): manifests.read(str(path.parent)).fingerprint
            for path in sorted(job.made.rglob(manifests.FILE_NAME))
        },
    }


def _kill_at(job: Job, files: int | None, later: float) -> dict[str, Any] | None:
    """Starts an attempt and kills it; returns what that left, or None if it had ended before.

    Raises:
      RuntimeError: the attempt failed by itself.
    """
    before = job.committed()
    with job.start() as process:
        while files is not None and process.poll() is None and job.committed() - before < files:
            time.sleep(_POLL_SECONDS)
        time.sleep(later)
        process.kill()
        _, said = process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode != -9:
        raise RuntimeError(f"{job.name} ended with {process.returncode}: {said.decode()}")
    return {"starting": files is None} | left_by(job.made)


def left_by(made: Path) -> dict[str, int]:
    """Counts what an attempt left: committed files of the work directories, shards, temporary files and manifests."""
    files = [path for path in made.rglob("*") if path.is_file()]
    temporary = [path for path in files if kill.is_temporary(path.name)]
    work = [path for path in files if WORK_DIRECTORY in path.parts and path not in temporary]
    return {
        "work": len(work),
        "shards": len([path for path in files if "-of-" in path.name and path not in temporary]),
        "temporary": len(temporary),
        "manifests": len([path for path in files if path.name == manifests.FILE_NAME]),
    }


def differences(killed: Path, whole: Path) -> list[str]:
    """What a job that was killed left otherwise than one that was not; empty if all is the same.

    All files are compared by their bytes, manifests by all but the time of day.
    """
    ours, theirs = ({p.relative_to(d): p for p in d.rglob("*") if p.is_file()} for d in (killed, whole))
    found = [f"{name}: left behind" for name in sorted(ours.keys() - theirs.keys())]
    found += [f"{name}: missing" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        if _content(ours[name]) != _content(theirs[name]):
            found.append(f"{name}: other content")
    return found


def _content(path: Path) -> Any:
    content = path.read_bytes()
    if path.name != manifests.FILE_NAME:
        return content
    return {name: value for name, value in json.loads(content).items() if name not in _CLOCK}


def main(options: Options) -> int:
    """Measures, keeps the figures, and writes the page anew; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"kill_jobs-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()
    return 1 if any(job["differences"] or not job["kills"] for job in result["jobs"]) else 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Options, description=__doc__)))
