"""Each Beam job as Dataflow would get it, built without network or credentials; and what its workers would load."""

import json
import subprocess
import sys

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from tests import commands, dataflow

JOBS = ("ingest", "embed", "curate", "export", "publish")
STEPS = {
    "ingest": [
        "List source tasks", "Spread tasks", "Read and normalise", "List keys", "Key by uid", "Group by uid",
        "Drop exact duplicates", "Key by text", "Group by text", "Mark repeated texts", "Choose shard", "List shards",
        "Group by shard", "Write corpus shards", "Gather results", "Write metadata and manifest",
    ],
    "embed": [
        "List corpus shards", "Spread shards", "Embed shards", "Gather results", "Write metadata and manifest",
    ],
    "curate": [
        "Begin curated", "Choose curated rows", "Spread curated shards", "Write curated shards",
        "Gather curated results",
        "Write curated metadata and manifest", "List embeddings for uniform control",
        "Spread embeddings for uniform control", "Key rows for uniform control", "Gather facts for uniform control",
        "Choose uniform control rows", "Spread uniform control shards", "Write uniform control shards",
        "Gather uniform control results", "Write uniform control metadata and manifest",
        "All complete",
    ],
    "export": [
        "List dataset shards", "Spread shards", "Export shards", "Gather results", "Write metadata and manifest",
    ],
    "publish": [
        "Begin", "List shards", "Spread shards", "Copy shards", "Gather results",
        "Copy other files and the manifest", "Move the alias",
    ],
}  # fmt: skip
# What a portable runner has to know, and nothing else.
PORTABLE = {f"beam:transform:{name}:v1" for name in (
    "group_by_key", "generic_composite", "reshuffle", "pardo", "impulse", "pickled_python", "flatten"
)}  # fmt: skip
LOAD = """
import json, sys
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.utils import proto_utils
graph = beam_runner_api_pb2.Pipeline.FromString(open(sys.argv[1], "rb").read())
modules = []
for transform in graph.components.transforms.values():
    if transform.spec.urn == "beam:transform:pardo:v1":
        pardo = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
        fn = pickler.loads(pardo.do_fn.payload)[0]
        modules.append(type(fn).__module__)
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("beam_pipelines", "trainer", "schemas", "tests"))
print(json.dumps({"modules": modules, "ours": ours, "tensorflow": "tensorflow" in sys.modules}))
"""


@pytest.fixture(scope="module")
def built(miniature, tmp_path_factory):
    """A folder for each job, with `job.json` and `pipeline.pb`."""
    folder = tmp_path_factory.mktemp("dataflow")
    command = [sys.executable, "-W", "ignore", "-m", "tests.dataflow", str(miniature), str(folder)]
    done = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def graph(folder, name: str) -> beam_runner_api_pb2.Pipeline:
    return beam_runner_api_pb2.Pipeline.FromString((folder / name / "pipeline.pb").read_bytes())


@pytest.mark.parametrize("name", JOBS)
def test_the_service_is_told_what_the_flags_say(built, name):
    job = json.loads((built / name / "job.json").read_text())
    assert (job["name"], job["type"]) == (f"superbatch-{name}", "JOB_TYPE_BATCH")
    environment = job["environment"]
    assert environment["serviceAccountEmail"] == "ingest@a-project.iam.gserviceaccount.com"
    [pool] = environment["workerPools"]
    assert (pool["machineType"], pool["diskSizeGb"]) == ("n2-standard-8", 100)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 40
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    [image] = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == "europe-docker.pkg.dev/a-project/ours/superbatch:1"


@pytest.mark.parametrize("name", JOBS)
def test_steps_have_plain_names_and_need_nothing_special(built, name):
    pipeline = graph(built, name)
    transforms = pipeline.components.transforms
    [root] = pipeline.root_transform_ids
    assert [transforms[step].unique_name for step in transforms[root].subtransforms] == STEPS[name]
    assert {t.spec.urn for t in transforms.values()} <= PORTABLE | {""}
    assert not any(pcoll.is_bounded != beam_runner_api_pb2.IsBounded.BOUNDED for pcoll in
                   pipeline.components.pcollections.values())  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_groups_have_keys_whose_bytes_are_always_the_same(built, name):
    components, found = graph(built, name).components, 0
    for transform in components.transforms.values():
        if transform.spec.urn == "beam:transform:group_by_key:v1":
            [grouped] = transform.inputs.values()
            coder = components.coders[components.pcollections[grouped].coder_id]
            key = components.coders[coder.component_coder_ids[0]].spec.urn
            assert key in ("beam:coder:string_utf8:v1", "beam:coder:varint:v1"), transform.unique_name
            found += 1
    assert found >= 2


@pytest.mark.parametrize("name", JOBS)
def test_workers_load_the_job_from_the_installed_package_alone(built, name):
    """A fresh interpreter unpickles every function: nothing of the launcher's own session travels."""
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(built / name / "pipeline.pb")]
    done = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["modules"]
    assert f"beam_pipelines.{name}" in loaded["ours"]
    assert not any(module.startswith("tests") for module in loaded["ours"])
    assert not loaded["tensorflow"]


def test_a_job_for_dataflow_is_not_waited_for(miniature, tmp_path):
    """Submitting is all that a launcher does; `--dry_run` stops just before the service is asked."""
    job = ["curate", f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill", "--budget=4"]
    flags = [flag for flag in dataflow.FLAGS if not flag.startswith("--machine_type")]
    [(code, said)] = commands.finish([commands.start([*job, f"--output={tmp_path}/c", "--shards=1", *flags])])
    assert code == 0, said
    assert "curate: submitted; the job goes on without this command" in said
    assert not (tmp_path / "c" / "manifest.json").exists()
