"""`superbatch distill` over several devices and processes: the picks of one device, and the same losses."""

import json
import signal
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.cli import main
from infra.tpu import jobset
from schemas import manifest as manifests
from tests import commands
from trainer.model import Source

STEPS = 3
# Flexi-JEST with small candidates goes through both halves of a step, and through picks that another process read.
KINDS = {"whole": [], "in halves": ["--flexi", "--scoring_resolution=16"]}


def arguments(miniature, workdir, *more: str, steps: int = STEPS) -> list[str]:
    return [
        "distill", f"--corpus={miniature / 'corpora/pool'}", f"--embeddings={miniature / 'embeddings'}",
        f"--workdir={workdir}", f"--steps={steps}", "--batch_size=16", "--block_size=8", "--filter_ratio=0.8",
        "--chunks=3", "--warmup_steps=1", "--resolution=32", "--preset=nano", "--steps_per_part=2",
        "--log_every=1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def runs(request, miniature, tmp_path_factory):
    """Workdirs of one run on one device, and of the same on two processes with four devices each."""
    folder, flags = tmp_path_factory.mktemp("runs"), KINDS[request.param]
    spread = ["--shard_parameters", f"--evaluation={miniature / 'corpora/evaluation'}"]
    for name, processes, devices, more in (("one", 1, 1, []), ("spread", 2, 8, spread)):
        run = commands.start_processes(processes, devices, arguments(miniature, folder / name, *flags, *more))
        for code, said in commands.finish(run):
            assert code == 0, said
    return folder


def picks(workdir):
    parts = sorted((workdir / "selections").glob("picks-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def losses(workdir) -> list[float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_same_candidates_give_the_same_picks(runs):
    one, spread = picks(runs / "one"), picks(runs / "spread")
    assert len(one) == 16 * STEPS
    for ours, theirs in zip(spread, one, strict=True):
        for field in ("step", "pick", "chunk", "row", "uid"):
            assert ours[field] == theirs[field]
        for field in ("learner_nll", "reference_nll", "conditional"):
            assert ours[field] == pytest.approx(theirs[field], rel=1e-4, abs=1e-4)


def test_losses_and_parameters_agree(runs):
    assert losses(runs / "spread") == pytest.approx(losses(runs / "one"), rel=1e-5)
    one, spread = (Source(str(runs / name)).load() for name in ("one", "spread"))
    assert spread.scale == pytest.approx(one.scale, rel=1e-5)
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    tokens = np.ones((4, 16), np.int32)
    for ours, theirs in zip(spread.embed(image, tokens), one.embed(image, tokens), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)  # Adam turns rounding into small steps


def test_artifacts_of_several_processes_are_sound(runs, capsys):
    assert main(["verify", str(runs / "spread")]) == 0, capsys.readouterr().out
    assert main(["verify", str(runs / "spread/selections")]) == 0, capsys.readouterr().out


def test_the_first_process_evaluates_at_the_end(runs):
    lines = [json.loads(line) for line in (runs / "spread/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "evaluation/images" in line] == [STEPS]


def test_sigterm_to_one_host_of_a_jobset_stops_all_at_one_step_and_restarts_them_there(miniature, tmp_path):
    machines = jobset.Machines(image="i", topology="2x4", hosts=2)
    command = ["superbatch", *arguments(miniature, tmp_path / "w", steps=100_000)]
    job = jobset.manifest(machines, "distill", command)["spec"]["replicatedJobs"][0]["template"]["spec"]
    [retried] = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    steps = 0
    for _ in range(2):
        run = start_pods(job, devices=2)
        wait_for_lines(tmp_path / "w/metrics.jsonl", steps + 3, run)
        run[1].send_signal(signal.SIGTERM)
        for code, said in commands.finish(run):
            assert code in retried["values"], said
            assert "stopped by SIGTERM after step" in said
            assert not steps or f"resumed at step {steps} of" in said
        before, steps = steps, max(int(folder.name) for folder in (tmp_path / "w/checkpoints").iterdir())
        assert before + 3 <= steps < 100_000
        assert not manifests.exists(str(tmp_path / "w"))


def test_the_first_process_says_what_is_wrong_and_the_others_say_that_it_does(miniature, runs):
    run = commands.start_processes(2, 4, arguments(miniature, runs / "one", "--gain=2"))
    (code, said), (other_code, other) = commands.finish(run)
    assert (code, other_code) == (1, 1)
    assert "gain was 1.0, now 2.0" in said + other


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch_size=12", "--block_size=4"], "batch_size is 12, which 8 devices cannot share equally: choose"),
        (["--batch_size=8", "--flexi"], "half of batch_size (flexi) is 4, which 8 devices cannot share equally"),
    ],
)
def test_what_devices_cannot_share_is_refused_with_the_numbers(miniature, tmp_path, flags, words):
    [(code, said)] = commands.finish(commands.start_processes(1, 8, arguments(miniature, tmp_path / "w", *flags)))
    assert code == 1
    assert words in said
    assert not (tmp_path / "w").exists()


def start_pods(job: dict, devices: int) -> list:
    """Starts a Job's pods on this machine, each with its index; the first one's address is here instead."""
    [container] = job["template"]["spec"]["containers"]
    here = commands.fake_devices(devices // job["completions"]) | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{commands.free_port()}",
        # Only the first process fills it. At a restart that one would wait for the others to compile, for 30 s at most.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    return [
        commands.start(
            container["command"][1:],
            **{variable["name"]: variable.get("value", str(index)) for variable in container["env"]} | here,
        )
        for index in range(job["completions"])
    ]


def wait_for_lines(path, count: int, run, seconds: float = 200) -> None:
    """Waits until a run has logged so many steps; fails if it ends before."""
    end = time.monotonic() + seconds
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert all(process.poll() is None for process in run), commands.finish(run)
        assert time.monotonic() < end, f"{path} has fewer than {count} lines after {seconds} s"
        time.sleep(0.1)
