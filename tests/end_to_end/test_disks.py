"""Disks that are full, outputs that cannot be: one line, nothing complete, and the same command goes on later."""

import subprocess
import sys

import pytest

from infra import cli
from schemas import manifest as manifests
from tests import commands
from tests.end_to_end.test_kill_jobs import jobs

# No file of this process may grow beyond so many bytes: ArrayRecord's writer fails as on a full disk.
SMALL_FILES = """
import resource, sys
from infra import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(cli.main(sys.argv[2:]))
"""
# The disk is full when the last step writes its metadata.
FULL_AT_THE_END = """
import errno, sys
from pathlib import Path
from infra import cli
write = Path.write_bytes
def write_or_fail(self, content):
    if len(content) > 500:
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(self, content)
Path.write_bytes = write_or_fail
sys.exit(cli.main(sys.argv[2:]))
"""
MADE = ["corpora/pool", "embeddings", "curated"]


def run(program: str, arguments: list[str]) -> tuple[int, str]:
    command = [sys.executable, "-W", "ignore", "-c", program, "20000", *arguments]
    done = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("program", [SMALL_FILES, FULL_AT_THE_END], ids=["shard", "metadata"])
def test_a_full_disk_stops_a_job_in_one_line_and_it_goes_on_later(miniature, tmp_path, made, program):
    arguments = [*jobs(miniature, tmp_path)[made], f"--output={tmp_path / made}"]
    code, line = run(program, arguments)
    assert code == 1
    assert "could not be written" in line if program == SMALL_FILES else "No space left on device: '/" in line
    assert line.startswith(f"superbatch {arguments[0]}: ")
    assert str(tmp_path) in line
    assert not manifests.exists(str(tmp_path / made))
    assert cli.main(arguments) == 0
    assert manifests.read(str(tmp_path / made)).fingerprint == manifests.read(str(miniature / made)).fingerprint


@pytest.mark.parametrize("made", MADE)
def test_an_output_that_cannot_be_made_is_named(miniature, tmp_path, capsys, made):
    (tmp_path / "file").write_text("in the way")
    arguments = [*jobs(miniature, tmp_path)[made], f"--output={tmp_path}/file/o"]
    assert cli.main(arguments) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(
        f"superbatch {arguments[0]}: NotADirectoryError: [Errno 20] Not a directory: '{tmp_path}/file/o"
    )
