"""A whole round whose every path is `gs://`, against an object store's emulator; and how its jobs fail there."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from infra import cli
from schemas import manifest as manifests
from tests import gcs
from tests.conftest import picture
from tests.end_to_end.test_round import ARTIFACTS
from tests.schemas.test_access import store

ROWS = 40  # of each tar
# Pulls the plug when a shard has been committed, before anyone is told.
KILLED = """
import os, signal
from schemas import shards
write = shards.write_shard
def write_and_die(path, rows):
    written = write(path, rows)
    if "-of-" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return written
shards.write_shard = write_and_die
"""
# The store gives up on one of the tars, after gcsfs's own retries.
HICCUP = """
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError
read = GCSFileSystem._cat_file_sequential
async def read_or_fail(self, path, **range):
    if path.endswith("1.tar"):
        raise HttpError({"code": 503, "message": "backend error"})
    return await read(self, path, **range)
GCSFileSystem._cat_file_sequential = read_or_fail
"""


def tar(first: int) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as file:
        for number in range(first, first + ROWS):
            for extension, content in (
                ("png", picture(number)),
                ("json", json.dumps({"caption": f"thing number {number}"}).encode()),
            ):
                member = tarfile.TarInfo(f"{number:04d}.{extension}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return output.getvalue()


@pytest.fixture(scope="module")
def bucket(miniature, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("round")
    raw = miniature.parent
    with gcs.emulator(scratch / "requests.log") as server:
        server.make_bucket("bucket")
        for name in ("seed", "pool", "evaluation"):
            server.upload(raw / name, "bucket", f"raw/{name}")
        settings = (raw / "round.toml").read_text().replace(str(raw), "gs://bucket/raw")
        settings = settings.replace("gs://bucket/raw/out", "gs://bucket/out").replace("downstream_seeds = [0]", "")
        server.put("bucket", "round.toml", settings.encode())
        for number in range(2):
            content = tar(number * ROWS)
            (scratch / f"{number}.tar").write_bytes(content)
            server.put("bucket", f"tars/{number}.tar", content)
        yield gcs.Bucket(server, scratch)


@pytest.fixture(scope="module")
def corpus(bucket) -> manifests.Manifest:
    """What a local run makes of the tars."""
    output = str(bucket.scratch / "corpus")
    assert cli.main(ingest(f"webdataset:{bucket.scratch}/*.tar", output)) == 0
    return manifests.read(output)


def ingest(source: str, output: str) -> list[str]:
    return ["ingest", f"--source={source}", "--name=tars", f"--output={output}", "--shards=2"]


def test_a_round_in_a_bucket_has_the_fingerprints_of_one_on_a_disk(miniature, bucket):
    round_ = ["round", "--config=gs://bucket/round.toml"]
    verify = [["verify", f"gs://bucket/out/{name}", "--json"] for name in ARTIFACTS]
    report = ["report", "gs://bucket/out", f"--output={bucket.scratch}/report.html"]
    first, again, reported, *verified = bucket.run(round_, round_, report, *verify)
    assert first[0] == 0, first[3]
    assert reported[0] == 0, reported[3]
    assert "ADD UP" not in reported[2]
    for name in ARTIFACTS:
        ours, theirs = bucket.manifest(f"out/{name}"), manifests.read(str(miniature / name))
        assert ours.fingerprint == theirs.fingerprint, name
        assert ours.counts == theirs.counts
    assert again[0] == 0, again[3]
    assert again[3].count("nothing to do") == len(ARTIFACTS) - 3  # curate makes three of them, distill two
    for name, (code, _, said, errors) in zip(ARTIFACTS, verified, strict=True):
        assert code == 0, f"{name}: {said} {errors}"
    # Every object is in a manifest: work files are gone, and nothing temporary was ever there.
    named: set[str] = set()
    for name in ARTIFACTS:
        manifest = bucket.manifest(f"out/{name}")
        named |= {f"out/{name}/{file.name}" for file in [*manifest.shards, *manifest.files]}
    manifests_there = {f"out/{name}/manifest.json" for name in ARTIFACTS}
    assert set(bucket.server.names("bucket", "out/")) == named | manifests_there | {"out/timings.jsonl"}


def test_tars_in_a_bucket_become_the_corpus_that_they_become_on_a_disk(bucket, corpus):
    log = bucket.scratch / "requests.log"
    before = log.read_text()
    by_glob, by_range, verified = bucket.run(
        ingest("webdataset:gs://bucket/tars/*.tar", "gs://bucket/by_glob"),
        ingest("webdataset:gs://bucket/tars/{0..1}.tar", "gs://bucket/by_range"),
        ["verify", "gs://bucket/by_range"],
    )
    for code, _, _, errors in (by_glob, by_range, verified):
        assert code == 0, errors
    for name in ("by_glob", "by_range"):
        assert bucket.manifest(name).fingerprint == corpus.fingerprint
        assert not [found for found in bucket.server.names("bucket", name) if "/." in found]
    # A shard asks for a range of a spool, not for its rows one by one.
    reads = [line for line in log.read_text()[len(before) :].splitlines() if "GET" in line and "spool-" in line]
    assert 0 < len(reads) < 2 * ROWS


def test_a_job_killed_in_a_bucket_goes_on_where_it_was(bucket, corpus):
    command = ingest("webdataset:gs://bucket/tars/*.tar", "gs://bucket/killed")
    killed = bucket.process(KILLED + gcs.COMMANDS, json.dumps([command]))
    assert killed.returncode == -9, killed.stderr
    left = bucket.server.names("bucket", "killed/")
    assert "killed/manifest.json" not in left
    assert len([name for name in left if "array_record" in name and "/.work/" not in name]) == 1
    [(code, _, _, errors)] = bucket.run(command)
    assert code == 0, errors
    assert bucket.manifest("killed").fingerprint == corpus.fingerprint
    assert not [name for name in bucket.server.names("bucket", "killed/") if "/." in name]


def test_what_the_store_does_not_give_stops_the_job_and_is_no_rejection(bucket, corpus):
    command = ingest("webdataset:gs://bucket/tars/*.tar", "gs://bucket/hiccup")
    failed = bucket.process(HICCUP + gcs.COMMANDS, json.dumps([command]))
    line = failed.stderr.replace("----\n", "").strip().splitlines()[-1]
    assert "gs://bucket/tars/1.tar could not be read (HttpError: backend error, 503)" in line
    assert "Traceback" not in failed.stderr
    assert json.loads(failed.stdout)["code"] == 1
    [(code, _, _, errors)] = bucket.run(command)
    assert code == 0, errors
    assert bucket.manifest("hiccup").fingerprint == corpus.fingerprint
    assert bucket.manifest("hiccup").counts.rejected == {}


def jobs(source: str, where: str, miniature: Path) -> list[list[str]]:
    """Every job with something of it in the place `where`."""
    pool, reference = f"--corpus={miniature}/corpora/pool", f"--reference={miniature}/workdirs/reference"
    selections, budget = f"--selections={miniature}/workdirs/distill", "--budget=16"
    return [
        ingest(f"webdataset:{where}/*.tar", source),
        ingest(f"webdataset:{where}/{{0..1}}.tar", source),
        ingest(f"folder:{where}/raw", source),
        ingest(f"folder:{miniature.parent}/seed", f"{where}/o"),
        ["embed", f"--corpus={where}/pool", reference, f"--output={source}"],
        ["embed", pool, reference, f"--output={where}/o"],
        ["curate", f"--corpus={where}/pool", selections, budget, f"--output={source}"],
        ["curate", pool, selections, budget, f"--output={where}/o"],
        ["curate", pool, selections, budget, f"--output={source}", f"--control={where}/o"],
    ]


@pytest.mark.parametrize("why", ["absent", "forbidden", "no credentials"])
def test_a_bucket_that_cannot_be_used_ends_every_job_in_one_line(why, miniature, bucket, tmp_path):
    commands = [*jobs(str(tmp_path / "o"), "gs://elsewhere", miniature), ["verify", "gs://elsewhere/o"]]
    nothing = {"CLOUDSDK_CONFIG": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": ""}
    if why == "absent":
        words, results = "gs://elsewhere does not exist", bucket.run(*commands)
    elif why == "forbidden":
        with store(403) as (url, _):
            words, results = "Forbidden: ", gcs.run(gcs.Emulator(url).environment, *commands)
    else:
        words, results = "no Google credentials", gcs.run({"NO_GCE_CHECK": "true"} | nothing, *commands)
    for command, (code, seconds, said, errors) in zip(commands, results, strict=True):
        if command[0] == "verify":  # what is wrong is a finding
            line = said.strip().splitlines()[-1]
        else:
            line = errors.strip().splitlines()[-1]
            assert line.startswith(f"superbatch {command[0]}: "), errors
        assert words in line
        assert "Traceback" not in errors
        assert code == 1
        assert seconds < 30
    shutil.rmtree(tmp_path / "o", ignore_errors=True)
