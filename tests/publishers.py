"""Publishers and movers of aliases, many at a time: `python -m tests.publishers SETTINGS` is one process of a race.

They make the moves of `superbatch publish` without Beam, one after another, so that twenty of them fit two cores.
Libraries read an emulator's address when they are imported: a race in a bucket has processes with its environment.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from beam_pipelines import aliases, copying, publication
from beam_pipelines import store as stores
from tests import commands

_SECONDS = 240


def publish(source: str, destination: str, publisher: str) -> None:
    """Publishes a dataset; raises what `superbatch publish` would tell."""
    ours = publication.prepare(source, destination, publisher)
    if publication.is_complete(ours):
        return
    publication.claim_version(ours)
    _, manifest = publication.read_source(ours)
    copying.complete(ours, [copying.copy_file(ours, shard) for shard in manifest.shards])


def race(environment: dict[str, str], processes: int, **settings: Any) -> list[dict[str, Any]]:
    """Runs the threads of a race in so many processes; returns what each thread has to say.

    Args:
      environment: added to this process's.
      processes: they share the names under `publishers`, or the versions under `versions`.
      **settings: `destination`; and `sources`, `publishers` (who take turns with the sources), or else `versions` (one
        for each mover of the alias `latest`).
    """
    shared = "publishers" if "publishers" in settings else "versions"
    program = [sys.executable, "-W", "ignore", "-m", "tests.publishers"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(
            [*program, json.dumps(settings | {shared: settings[shared][number::processes]})],
            cwd=commands.ROOT, env=os.environ | environment, **pipes,
        )
        for number in range(processes)
    ]  # fmt: skip
    for process in running:  # all have imported what they need
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError(process.communicate()[1])
    for process in running:
        if process.stdin:
            process.stdin.write("go\n")
            process.stdin.flush()
    said = []
    for process in running:
        output, errors = process.communicate(timeout=_SECONDS)
        if process.returncode:
            raise RuntimeError(errors)
        said += json.loads(output)
    return said


def _run(settings: dict[str, Any]) -> list[dict[str, Any]]:
    destination = settings["destination"]
    if "publishers" in settings:
        acts = [_publisher(name, settings["sources"], destination) for name in settings["publishers"]]
    else:
        replaced = _log_replacements()
        acts = [_mover(version, destination, replaced) for version in settings["versions"]]
    barrier, said = threading.Barrier(len(acts)), []

    def go(act: Callable[[], dict[str, Any]]) -> None:
        barrier.wait()
        said.append(act())

    threads = [threading.Thread(target=go, args=[act]) for act in acts]
    print("ready", flush=True)
    sys.stdin.readline()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def _publisher(name: str, sources: list[str], destination: str) -> Callable[[], dict[str, Any]]:
    source = sources[int(name.rpartition("-")[2]) % len(sources)]

    def act() -> dict[str, Any]:
        error = None
        try:
            publish(source, destination, name)
        except Exception as raised:  # whatever it is, the race's judge has to see it
            error = f"{type(raised).__name__}: {raised}"
        return {"publisher": name, "source": source, "error": error}

    return act


def _mover(version: str, destination: str, replaced: list[tuple[str, str]]) -> Callable[[], dict[str, Any]]:
    ours = publication.Publication(
        source="", destination=destination, name="raced", version=version, fingerprint=version,
        files="", manifest_sha256="", publisher=f"mover of {version}",
    )  # fmt: skip

    def act() -> dict[str, Any]:
        moved = aliases.move(ours, "latest")
        swaps = [swap for swap in replaced if json.loads(swap[1])["version"] == version]
        return {"version": version, "moved": moved, "replaced": swaps}

    return act


def _log_replacements() -> list[tuple[str, str]]:
    """Returns a list that grows by what every successful swap found (a generation), and what it wrote."""
    replaced: list[tuple[str, str]] = []
    for kind in (stores.Folder, stores.Bucket):

        def logged(self: Any, name: str, content: bytes, generation: str, replace: Any = kind.replace) -> bool:
            done = replace(self, name, content, generation)
            if done:
                replaced.append((generation, content.decode()))
            return done

        kind.replace = logged
    return replaced


if __name__ == "__main__":
    print(json.dumps(_run(json.loads(sys.argv[1]))))
