"""Killed at any moment, a run goes on as if it had not been; asked to stop, it saves itself first."""

import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from infra.cli import main
from schemas import manifest as manifests
from tests import commands

STEPS = 12


def distill(miniature, workdir, steps: int = STEPS) -> list[str]:
    return [
        "distill", f"--corpus={miniature / 'corpora/pool'}", f"--embeddings={miniature / 'embeddings'}",
        f"--workdir={workdir}", f"--steps={steps}", "--batch_size=8", "--block_size=8", "--filter_ratio=0.8",
        "--chunks=3", "--warmup_steps=1", "--resolution=32", "--preset=nano", "--steps_per_part=5",
        "--checkpoint_every=3", "--log_every=1",
    ]  # fmt: skip


def logged(workdir) -> int:
    """The last step that the run has logged."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return json.loads(lines[-1])["step"] if lines else 0
    except ValueError:  # being written
        return 0


def saving(workdir) -> bool:
    """Whether a checkpoint is being written."""
    folder = workdir / "checkpoints"
    return folder.exists() and any("orbax-checkpoint-tmp" in name for name in os.listdir(folder))


def wait_until(reached: Callable[[], bool], process: subprocess.Popen, seconds: float = 240) -> None:
    """Waits for a moment in a run; ends with the process, and fails if neither comes."""
    end = time.monotonic() + seconds
    while not reached() and process.poll() is None:
        if time.monotonic() > end:
            process.kill()
            pytest.fail(f"nothing of it after {seconds:.0f} s")
        time.sleep(0.002)


def parts(workdir) -> dict[str, bytes]:
    folder = workdir / "selections"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


# Between checkpoints, in the middle of one, and after the last step: when nothing but the manifests is missing.
MOMENTS = {
    "after step 4": lambda workdir: logged(workdir) >= 4,
    "in a checkpoint": lambda workdir: logged(workdir) >= 5 and saving(workdir),
    "at the end": lambda workdir: logged(workdir) >= STEPS,
}


def test_three_kills_leave_no_trace(miniature, tmp_path, capsys):
    """The killed run is also read by processes of its own, which must change nothing either."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(distill(miniature, whole)) == 0
    for name, reached in MOMENTS.items():
        process = commands.start([*distill(miniature, killed), "--worker_processes=2"])
        wait_until(functools.partial(reached, killed), process)
        process.kill()
        [(code, said)] = commands.finish([process])
        # The run may have been quicker than the eye at the end, but nowhere else.
        assert code == -signal.SIGKILL or (name == "at the end" and code == 0), f"{name}: {said}"
    (killed / "selections/.tmp-orphan").write_bytes(b"of a killed attempt")
    [(code, said)] = commands.finish([commands.start([*distill(miniature, killed), "--worker_processes=2"])])
    assert code == 0, said
    assert parts(killed) == parts(whole)
    for part in ("", "selections"):
        assert manifests.read(str(killed / part)).fingerprint == manifests.read(str(whole / part)).fingerprint
    assert [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, STEPS + 1)
    ]
    assert not list(killed.rglob(".tmp-*"))
    assert main(["verify", str(killed)]) == 0, capsys.readouterr().out


def test_sigterm_saves_and_exits_0_and_the_run_goes_on_from_that_very_step(miniature, tmp_path):
    workdir = tmp_path / "w"
    process = commands.start(distill(miniature, workdir, steps=100_000))
    wait_until(lambda: logged(workdir) >= 4, process)
    process.send_signal(signal.SIGTERM)
    [(code, said)] = commands.finish([process])
    assert code == 0, said
    assert "stopped by SIGTERM after step" in said
    assert "run the same command again to go on" in said
    steps = logged(workdir)
    assert str(steps) in os.listdir(workdir / "checkpoints")
    assert not manifests.exists(str(workdir))
    process = commands.start(distill(miniature, workdir, steps=100_000))
    wait_until(lambda: logged(workdir) > steps, process)
    process.send_signal(signal.SIGTERM)
    [(code, said)] = commands.finish([process])
    assert (code, f"resumed at step {steps} of 100000" in said) == (0, True), said
