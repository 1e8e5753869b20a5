"""Beam jobs that are killed: what is left in the end is what an undisturbed run leaves."""

import signal
import subprocess
import sys

import pytest

from infra import cli
from schemas import manifest as manifests
from schemas import storage
from tests import commands

# The process dies just before it commits its second shard: what it has written lies there under a temporary name.
KILLED = """
import os, signal, sys
from infra import cli
from schemas import storage
shards, commit = 0, storage.commit
def commit_or_die(temporary, destination):
    global shards
    shards += ".array_record-" in str(destination)
    if shards == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(temporary, destination)
storage.commit = commit_or_die
sys.exit(cli.main(sys.argv[1:]))
"""


def jobs(miniature, root) -> dict[str, list[str]]:
    """The miniature's Beam jobs, by what they make."""
    return {
        "corpora/pool": ["ingest", f"--source=folder:{miniature.parent}/pool", "--name=mini_pool", "--shards=2"],
        "embeddings": ["embed", f"--corpus={miniature}/corpora/pool", f"--reference={miniature}/workdirs/reference"],
        "curated": [
            "curate", f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill", "--budget=16",
            "--name=mini_curated", "--shards=2", f"--control={root}/control",
        ],
    }  # fmt: skip


@pytest.mark.parametrize("made", ["corpora/pool", "embeddings", "curated"])
def test_a_killed_job_goes_on_as_if_nothing_had_happened(miniature, tmp_path, capsys, made):
    arguments = [*jobs(miniature, tmp_path)[made], f"--output={tmp_path / made}"]
    command = [sys.executable, "-W", "ignore", "-c", KILLED, *arguments]
    killed = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not manifests.exists(str(tmp_path / made))
    shards = list(tmp_path.rglob("*.array_record-*"))
    assert len(shards) == 1
    times = {path: path.stat().st_mtime_ns for path in shards}
    assert list(tmp_path.rglob(f"{storage.TEMPORARY_PREFIX}*"))
    assert cli.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in shards} == times  # what was finished is kept
    for name in (made, *(("control/uniform", "control/top_reference") if made == "curated" else ())):
        ours, theirs = (manifests.read(str(root / name)) for root in (tmp_path, miniature))
        assert ours.fingerprint == theirs.fingerprint
        assert cli.main(["verify", str(tmp_path / name)]) == 0
    assert not list(tmp_path.rglob(f"{storage.TEMPORARY_PREFIX}*"))
    assert not list(tmp_path.rglob(".work"))


def test_another_job_on_the_same_output_is_refused_while_the_first_is_unfinished(miniature, tmp_path, capsys):
    arguments = [*jobs(miniature, tmp_path)["corpora/pool"], f"--output={tmp_path}/c"]
    command = [sys.executable, "-W", "ignore", "-c", KILLED, *arguments]
    assert subprocess.run(command, cwd=commands.ROOT, capture_output=True, timeout=120, check=False).returncode == -9
    assert cli.main([*arguments, "--seed=1"]) == 1
    assert "seed was 0, now 1" in capsys.readouterr().err
