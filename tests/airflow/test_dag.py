"""A round's DAG in Airflow: it imports, runs a whole miniature round, does nothing twice, and guards what is published.

`make airflow-test` runs this in an environment of its own.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import cloud
import pytest

DEPLOYMENT = """
project = "p"
region = "europe-west4"
templates = "gs://p-templates/flex"
temporary = "gs://p-temporary/dataflow"
publisher_temporary = "gs://p-publisher-temporary/dataflow"
worker_service_account = "workers@p.iam.gserviceaccount.com"
publisher_service_account = "publisher@p.iam.gserviceaccount.com"
subnetwork = "regions/europe-west4/subnetworks/superbatch"
cluster = "superbatch"
cluster_location = "europe-west4"
retries = 0
[trainer]
image = "registry/superbatch:1"
topology = "1x1"
hosts = 1
"""
STAGES = {
    "ingest_seed", "ingest_pool", "ingest_evaluation", "train_reference", "embed", "distill", "curate",
    "train_curated_0", "evaluate_curated_0", "train_control_0", "evaluate_control_0", "gate", "publish",
}  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The miniature's raw data, and the DAG folder that its round was deployed to; Airflow is told of it."""
    root = tmp_path_factory.mktemp("round")
    raw = (
        "from tests import conftest; from pathlib import Path; import sys; conftest.write_miniature(Path(sys.argv[1]))"
    )
    subprocess.run([cloud.PYTHON, "-c", raw, str(root)], cwd=cloud.ROOT, check=True)
    with (root / "round.toml").open("a") as file:
        file.write(f'\n[publish]\ndestination = "{root}/published"\nalias = "latest"\n')
    (root / "deployment.toml").write_text(DEPLOYMENT)
    deployed = cloud.run(
        "infra.airflow.deploy", f"--config={root}/round.toml", f"--deployment={root}/deployment.toml",
        f"--output={root}/dags",
    )  # fmt: skip
    assert deployed.returncode == 0, deployed.stderr
    os.environ |= {
        "AIRFLOW_HOME": str(root / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }
    subprocess.run(["airflow", "db", "migrate"], check=True, capture_output=True)
    return root


@pytest.fixture(scope="session")
def dag(folder):
    from airflow.dag_processing.dagbag import BundleDagBag

    bag = BundleDagBag(dag_folder=folder / "dags", bundle_path=folder / "dags", bundle_name="dags-folder")
    assert bag.import_errors == {}
    [dag] = bag.dags.values()
    for task in dag.tasks:
        if hasattr(task, "poke_interval"):
            task.poke_interval = 0.1
    return dag


@pytest.fixture
def services(monkeypatch):
    from airflow.providers.google.cloud.hooks.dataflow import DataflowHook
    from airflow.providers.google.cloud.operators import kubernetes_engine
    from airflow.providers.google.cloud.triggers.dataflow import TemplateJobStartTrigger
    from airflow.triggers.base import TriggerEvent

    dataflow, kubernetes = cloud.Dataflow(), cloud.Kubernetes()

    async def ended(self):
        yield TriggerEvent({"status": "success", "job_id": self.job_id, "message": "done"})

    monkeypatch.setattr(DataflowHook, "launch_job_with_flex_template", lambda _, body, **__: dataflow.launch(body))
    monkeypatch.setattr(DataflowHook, "get_job", lambda _, job_id, **__: {"id": job_id})
    monkeypatch.setattr(TemplateJobStartTrigger, "run", ended)
    hook = SimpleNamespace(custom_object_client=kubernetes)
    monkeypatch.setattr(kubernetes_engine.GKEOperatorMixin, "hook", hook)
    monkeypatch.setattr(
        kubernetes_engine.GKEStartPodOperator, "execute", lambda self, context: kubernetes.run_pod(self.cmds)
    )
    return SimpleNamespace(dataflow=dataflow, kubernetes=kubernetes)


def states(run) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def figures(folder: Path, **recall: float) -> None:
    """Makes the evaluations say this: their inputs stay the same, so that they are not measured again."""
    for label, value in recall.items():
        path = folder / f"out/1.0.0/evaluations/downstream-{label}-0.json"
        evaluation = json.loads(path.read_text())
        for direction in ("text_to_image", "image_to_text"):
            evaluation["figures"][f"{direction}_recall_at_1"] = value
        path.write_text(json.dumps(evaluation))


def test_the_dag_has_the_stages_of_the_round_in_its_order(dag, folder):
    listed = cloud.run("infra.cli", "round", f"--config={folder}/round.toml", "--print_stages")
    assert listed.returncode == 0, listed.stderr
    stages = {stage["id"]: set(stage["inputs"]) for stage in json.loads(listed.stdout)}
    assert set(stages) == STAGES
    assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == stages
    deferring = {task.task_id for task in dag.tasks if getattr(task, "deferrable", False)}
    sensors = {task.task_id for task in dag.tasks if getattr(task, "mode", "") == "reschedule"}
    assert deferring | sensors == STAGES - {"gate"}  # nothing waits in a worker


def test_a_whole_round_then_nothing_then_the_gate(dag, folder, services):
    """One story, since each part needs what the part before it made."""
    out, published = folder / "out/1.0.0", folder / "published/mini_curated/1.0.0"

    services.kubernetes.broken = {"distill"}
    run = dag.test()
    assert str(run.state) == "failed"
    assert states(run)["distill"] == "failed"
    assert states(run)["curate"] == "upstream_failed"
    assert services.dataflow.launched.count("ingest") == 3

    run = dag.test()
    assert str(run.state) == "success"
    assert services.dataflow.launched.count("ingest") == 3  # nothing that is complete is launched again
    assert [command[1] for command in services.kubernetes.commands].count("train") == 3
    evaluations = {
        label: json.loads((out / f"evaluations/downstream-{label}-0.json").read_text())["figures"]
        for label in ("curated", "control")
    }
    recall = {
        label: found["text_to_image_recall_at_1"] + found["image_to_text_recall_at_1"]
        for label, found in evaluations.items()
    }
    passes = recall["curated"] > recall["control"]
    assert states(run)["publish"] == ("success" if passes else "skipped")
    assert (published / "manifest.json").exists() == passes

    if not passes:
        figures(folder, curated=0.3, control=0.2)
        run = dag.test()
        assert states(run)["publish"] == "success"
    assert services.dataflow.launched[-1] == "publish"
    account = services.dataflow.bodies[-1]["launchParameter"]["environment"]["serviceAccountEmail"]
    assert account == "publisher@p.iam.gserviceaccount.com"
    assert json.loads((folder / "published/aliases/mini_curated/latest.json").read_text())["version"] == "1.0.0"
    verified = cloud.run("infra.cli", "verify", str(published))
    assert verified.returncode == 0, verified.stdout

    launched, before = len(services.dataflow.launched), {p: p.stat().st_mtime_ns for p in folder.glob("out/**/*")}
    commands, begin = len(services.kubernetes.commands), time.monotonic()
    run = dag.test()
    assert str(run.state) == "success"
    assert len(services.dataflow.launched) == launched
    assert {command[1] for command in services.kubernetes.commands[commands:]} == {"evaluate"}  # it looks by itself
    assert {p: p.stat().st_mtime_ns for p in folder.glob("out/**/*")} == before
    assert time.monotonic() - begin < 120

    for name in ("published/mini_curated", "published/aliases"):
        subprocess.run(["rm", "-r", str(folder / name)], check=True)
    figures(folder, curated=0.2, control=0.3)
    run = dag.test()
    assert str(run.state) == "success"
    assert (states(run)["gate"], states(run)["publish"]) == ("success", "skipped")
    assert not published.exists()

    run = dag.test(run_conf={"budget": 12})  # the same version, of another size
    assert (str(run.state), states(run)["curate"]) == ("failed", "failed")
    assert len(services.dataflow.launched) == launched


def test_a_run_decides_name_version_budget_and_place(dag):
    """What tasks send is rendered as Airflow does it; nothing is run."""
    import pendulum
    from jinja2 import StrictUndefined

    embed, distill, publish = (dag.get_task(name) for name in ("embed", "distill", "publish"))
    environment = dag.get_template_env()
    environment.undefined = StrictUndefined
    context = {
        "params": {"name": "Other", "version": "1.{date}.0", "budget": 0.5, "pool": "folder:/x/{date}",
                   "output": "gs://b/{version}"},
        "dag_run": SimpleNamespace(logical_date=pendulum.datetime(2026, 11, 24), run_after=None),
        "run_id": "manual__1",
    }  # fmt: skip
    body = embed.render_template(embed.body, context, environment)["launchParameter"]
    assert body["jobName"] == "other-embed"
    assert body["parameters"]["reference"] == "gs://b/1.20261124.0/workdirs/reference"
    assert body["parameters"]["version"] == "1.20261124.0"
    made = distill.render_template(distill.manifest, context, environment)
    assert made["metadata"]["name"].startswith("distill-")
    assert len(made["metadata"]["name"]) <= 40
    [job] = made["spec"]["replicatedJobs"]
    assert "--name=Other_distill" in job["template"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert publish.render_template(publish.stage, context, environment)["output"].endswith(
        "/Other_curated/1.20261124.0"
    )
    pool, curate = (dag.get_task(name) for name in ("ingest_pool", "curate"))
    parameters = [
        task.render_template(task.body, context, environment)["launchParameter"]["parameters"]
        for task in (pool, curate)
    ]
    assert (parameters[0]["source"], parameters[1]["budget"]) == ("folder:/x/20261124", "0.5")
