"""Publishing, raced, killed and damaged: one version or none, whole, and no flipped bit goes unnoticed.

    python -m benchmarks.publishing --name=cpu

Enters: two generated datasets of one name and version, an emulator of Google Cloud Storage, and a seed. Leaves:
`benchmarks/results/publishing-NAME.json`, its place in docs/performance.md, and an exit code: 0 only if all held.

* Races: publishers in several processes begin at once, every other one with the other dataset; in a bucket, a folder.
* Kills: `superbatch publish` gets SIGKILL when a random number of its objects are there, and a random part of the time
  between two of them later. The store is behind a proxy that makes each request wait, so that there is time to die in.
  What is left is looked at, and the same command is run once more.
* Damage: in a published folder one random bit of a random file is flipped, `verify` looks, and the bit is put back;
  then shards are removed, added, cut, renamed and exchanged.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import damage, generated, noise, performance_page
from schemas import claim
from schemas import manifest as manifests
from schemas.features import FILES
from tests import commands, gcs, publishers

_BUCKET, _NAME, _VERSION = "bucket", "pairs", "1.0.0"
_POLL_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    name: str = "cpu"  # of the machine, in the result file's name
    publishers: int = 20
    processes: int = 4  # that they are threads of
    races: int = 5  # in a bucket, and as many in a folder
    kills: int = 20
    wait: float = 0.03  # seconds that each request waits of a command that is to be killed
    flips: int = 1000
    rows: int = 160
    shards: int = 8
    seed: int = 0


def make_datasets(options: Options, scratch: Path) -> list[Path]:
    """Makes two datasets of one name and version: the same rows, shuffled otherwise, and a rejection."""
    broken = noise.Pair(family="broken", image=b"broken", suffix=".jpg", text="a broken picture", language="en")
    noise.write_folder(scratch / "raw", [*generated.pairs(options.rows, pixels=32), broken], seed=0)
    made = [scratch / f"dataset-{seed}" for seed in range(2)]
    for seed, output in enumerate(made):
        generated.superbatch(
            "ingest", f"--source=folder:{scratch / 'raw'}", f"--name={_NAME}", f"--version={_VERSION}",
            f"--shards={options.shards}", f"--seed={seed}", f"--output={output}",
        )  # fmt: skip
    return made


def objects(server: gcs.Emulator, prefix: str) -> dict[str, bytes]:
    """Every object of a version."""
    folder = f"{prefix}/{_NAME}/{_VERSION}/"
    return {name.removeprefix(folder): server.get(_BUCKET, name) for name in server.names(_BUCKET, folder)}


def race(options: Options, server: gcs.Emulator, datasets: list[Path], number: int, folder: Path | None) -> Any:
    """Runs one race, in the bucket unless in a folder; returns how it went, and what is wrong with that."""
    destination = f"gs://{_BUCKET}/race-{number}" if folder is None else str(folder)
    said = publishers.race(
        server.environment, options.processes, destination=destination, sources=[str(d) for d in datasets],
        publishers=[f"publisher-{n}" for n in range(options.publishers)],
    )  # fmt: skip
    found = objects(server, f"race-{number}") if folder is None else damage.contents(folder / _NAME / _VERSION)
    held = claim.Claim.parse(found.pop(claim.FILE_NAME), destination)
    won = [str(d) for d in datasets if manifests.read(str(d)).fingerprint == held.fingerprint]
    problems = [] if won and found == damage.contents(Path(won[0])) else [f"{destination} is not whole"]
    told = f"is held by {held.publisher} since {held.created}"
    for one in said:
        error = one["error"]
        if error is not None and (one["source"] in won or told not in error):
            problems.append(f"{one['publisher']} was told: {error}")
    succeeded, refused = (sum((one["error"] is None) == ended for one in said) for ended in (True, False))
    expected = {one["publisher"] for one in said if one["source"] in won}
    if (succeeded, refused) != (len(expected), options.publishers - len(expected)):
        problems.append(f"{destination}: {succeeded} succeeded and {refused} did not")
    return {
        "where": "bucket" if folder is None else "folder",
        "succeeded": succeeded, "told_who_holds_it": refused, "problems": problems,
    }  # fmt: skip


@contextlib.contextmanager
def slowed(server: gcs.Emulator, wait: float) -> Iterator[gcs.Emulator]:
    """The same store at another address, where each request waits."""
    port, upstream = commands.free_port(), int(server.url.rsplit(":", 1)[1])
    command = [sys.executable, "-m", "benchmarks.counting_proxy", str(port), str(upstream), str(wait)]
    with subprocess.Popen(command, cwd=commands.ROOT, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            if proxy.stdout is None or proxy.stdout.readline() != "ready\n":
                raise RuntimeError("the proxy did not start")
            yield gcs.Emulator(f"http://127.0.0.1:{port}")
        finally:
            proxy.terminate()


def command(dataset: Path, prefix: str) -> list[str]:
    """The command that is killed."""
    return ["publish", f"--dataset={dataset}", f"--destination=gs://{_BUCKET}/{prefix}"]


@dataclass(frozen=True)
class Attempts:
    """Publishes one dataset, each time at a version of its own."""

    dataset: Path
    server: gcs.Emulator
    slow: gcs.Emulator  # the same, where requests wait

    def undisturbed(self, prefix: str) -> float:
        """Runs an attempt to its end; returns the seconds between two of its objects."""
        times: list[float] = []
        with self._start(prefix) as process:
            while process.poll() is None:
                if self.server.names(_BUCKET, f"{prefix}/"):
                    times.append(time.monotonic())
                time.sleep(_POLL_SECONDS)
            _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{prefix} ended with {process.returncode}: {said.decode()}")
        return (times[-1] - times[0]) / len(damage.contents(self.dataset))

    def kill(self, prefix: str, count: int, later: float) -> bool:
        """Kills one when so many of its objects are there, and a little later; returns False if it had ended before."""
        with self._start(prefix) as process:
            while process.poll() is None and len(self.server.names(_BUCKET, f"{prefix}/")) < count:
                time.sleep(_POLL_SECONDS)
            time.sleep(later)
            process.kill()
            _, said = process.communicate()
        if process.returncode not in (0, -9):
            raise RuntimeError(f"{prefix} ended with {process.returncode}: {said.decode()}")
        return process.returncode != 0

    def _start(self, prefix: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*generated.SUPERBATCH, *command(self.dataset, prefix)],
            env=generated.environment(**self.slow.environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip


def kill(options: Options, server: gcs.Emulator, dataset: Path, rng: random.Random) -> dict[str, Any]:
    """Kills attempts; looks at what they leave, and at what the same command makes of that."""
    source, problems, left, drawn = damage.contents(dataset), [], {}, 0
    with slowed(server, options.wait) as slow:
        attempts = Attempts(dataset, server, slow)
        between = attempts.undisturbed("undisturbed")
        while len(left) < options.kills:
            prefix, drawn = f"killed-{drawn}", drawn + 1
            if attempts.kill(prefix, rng.randrange(1, len(source) + 1), rng.random() * between):
                left[prefix] = objects(server, prefix)
                problems += [f"{prefix}: {problem}" for problem in wrong_with(left[prefix], source)]
                print(prefix, sorted(left[prefix]), flush=True)
    for prefix, (code, _, _, errors) in zip(
        left, gcs.run(server.environment, *(command(dataset, prefix) for prefix in left)), strict=True
    ):
        whole = source | {claim.FILE_NAME: left[prefix].get(claim.FILE_NAME)}
        if code or objects(server, prefix) != whole:
            problems.append(f"{prefix} was not completed: {errors}")
    return {
        "asked": options.kills, "files": len(source) + 1, "problems": problems,
        "left": [{"files": len(found), "complete": manifests.FILE_NAME in found} for found in left.values()],
    }  # fmt: skip


def wrong_with(found: dict[str, bytes], source: dict[str, bytes]) -> Iterator[str]:
    """What a killed attempt may not leave: see which file promises which others."""
    shards = {name for name in source if damage.is_shard(name)}
    promised = dict.fromkeys(FILES, shards) | {manifests.FILE_NAME: source.keys(), claim.FILE_NAME: set()}
    for name, others in promised.items():
        if name in found and not others <= found.keys():
            yield f"{name} is there without {sorted(others - found.keys())}"
    if claim.FILE_NAME not in found:
        yield "there is no claim"
    yield from (f"{name} has other bytes" for name in found.keys() & source.keys() if found[name] != source[name])
    yield from (f"{name} is left over" for name in found.keys() - source.keys() - {claim.FILE_NAME})


def measure(options: Options, scratch: Path) -> dict[str, Any]:
    """Runs everything."""
    rng, races = random.Random(options.seed), []
    datasets = make_datasets(options, scratch)
    with gcs.emulator(scratch / "requests.log") as server:
        server.make_bucket(_BUCKET)
        for number in range(options.races):
            for folder in (None, scratch / f"race-{number}"):
                races.append(race(options, server, datasets, number, folder))
                print(races[-1], flush=True)
        killed = kill(options, server, datasets[0], rng)
    generated.superbatch("publish", f"--dataset={datasets[0]}", f"--destination={scratch / 'published'}")
    made = scratch / "published" / _NAME / _VERSION
    flips, missed = damage.flip(made, options.flips, rng)
    harms, unnoticed = damage.harm(made, rng)
    return {
        "machine": {"cores": os.cpu_count()},
        "seed": options.seed, "rows": options.rows, "shards": options.shards,
        "publishers": options.publishers, "processes": options.processes,
        "races": races, "kills": killed, "flips": flips, "harms": harms,
        "problems": [*(p for one in races for p in one["problems"]), *killed["problems"], *missed, *unnoticed],
    }  # fmt: skip


def main(options: Options) -> int:
    """Measures, keeps the figures, and writes the page anew; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"publishing-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Options, description=__doc__)))
