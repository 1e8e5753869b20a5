"""The same jobs on other runners: worker processes of Beam's own, and a cluster of Dask's. The same fingerprints."""

import contextlib
import subprocess
import sys

import pytest

from infra import cli
from schemas import manifest as manifests
from tests import commands

DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"


@contextlib.contextmanager
def worker_processes(_):
    """Beam's own runner, with two worker processes: what does not pickle is found."""
    yield ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@contextlib.contextmanager
def dask_cluster(scratch):
    """A scheduler and two worker processes on this machine.

    They are killed, not asked to end: a worker that is asked waits for its tasks and for the scheduler, which once took
    more than a minute, and nothing that they hold outlives the test.
    """
    address = f"tcp://127.0.0.1:{commands.free_port()}"
    options = {"cwd": commands.ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    port = address.rpartition(":")[2]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host=127.0.0.1", f"--port={port}"]
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--nthreads=1",
        "--no-nanny",
        f"--local-directory={scratch}",
    ]
    running = [subprocess.Popen([*scheduler, "--no-dashboard"], **options)]
    try:
        running += [subprocess.Popen([*worker, "--no-dashboard"], **options) for _ in range(2)]
        yield [f"--runner={DASK}", f"--dask_client_address={address}", "--dask_partition_size=1"]
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", params=[worker_processes, dask_cluster], ids=["processes", "dask"])
def runner(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp("scratch")) as flags:
        yield flags


def test_every_job_gives_the_same_on_other_runners(miniature, runner, tmp_path):
    jobs = {
        "corpora/pool": ["ingest", f"--source=folder:{miniature.parent}/pool", "--name=mini_pool", "--shards=2"],
        "embeddings": ["embed", f"--corpus={tmp_path}/corpora/pool", f"--reference={miniature}/workdirs/reference"],
        "curated": [
            "curate", f"--corpus={tmp_path}/corpora/pool", f"--selections={miniature}/workdirs/distill", "--budget=16",
            "--name=mini_curated", "--shards=2", f"--control={tmp_path}/control",
        ],
    }  # fmt: skip
    for output, job in jobs.items():
        [(code, said)] = commands.finish([commands.start([*job, f"--output={tmp_path}/{output}", *runner])])
        assert code == 0, said
    for output in (*jobs, "control/uniform", "control/top_reference"):
        ours, theirs = (manifests.read(str(root / output)) for root in (tmp_path, miniature))
        assert ours.fingerprint == theirs.fingerprint, output
        assert ours.counts == theirs.counts


def test_what_stops_a_job_is_one_line_from_other_runners_too(miniature, runner, tmp_path):
    job = ["ingest", f"--source=folder:{miniature.parent}/pool", "--name=p", f"--output={tmp_path}/c", "--shards=1"]
    [(code, said)] = commands.finish([commands.start([*job, "--max_rejected_fraction=0.01", *runner])])
    assert code == 1
    assert said.splitlines()[-1].startswith("superbatch ingest: 2.0% of 99 rows were rejected"), said


def test_a_runner_that_is_not_there_is_one_line(tmp_path, capsys):
    job = ["ingest", f"--source=folder:{tmp_path}", "--name=p", f"--output={tmp_path}/c"]
    assert cli.main([*job, "--runner=no.such.Runner"]) == 1
    assert (
        capsys.readouterr().err.strip().endswith("runner is in no.such, which cannot be imported: No module named 'no'")
    )
