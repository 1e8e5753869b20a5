"""Every `*.superbatch.json` beside this file becomes a DAG: one round, a task for each of its stages.

`python -m infra.airflow.deploy` wrote the JSON, this file and the two that it imports. The tasks' requests stand whole
in the JSON, so there is nothing to decide here but which operator sends which:

    beam, publish   a Dataflow Flex template, waited for in the triggerer
    trainer         a JobSet on TPU hosts, looked at once a minute
    evaluate        a pod, waited for in the triggerer
    gate            a comparison of figures, here; publication is skipped unless it passes

A stage that is complete is not launched again. A retry launches the same command on the same output, which goes on
where the attempt before it stopped.
"""

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.google.cloud.operators.kubernetes_engine import GKEStartPodOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG, Param
from superbatch_operators import FlexJob, JobSet, compare


def filled(name: str, params: dict[str, Any], dag_run: Any) -> str:
    """A parameter in which {date} is the run's date and {version} its version."""
    date = (dag_run.logical_date or dag_run.run_after).strftime("%Y%m%d")
    version = str(params["version"]).replace("{date}", date)
    return str(params[name]).replace("{date}", date).replace("{version}", version)


def jobset_name(stage: str, run_id: str) -> str:
    """A name for Kubernetes, the same for every attempt at a stage of a run."""
    return f"{stage[:27].rstrip('-')}-{hashlib.sha256(run_id.encode()).hexdigest()[:10]}"


def parameters(defaults: dict[str, Any]) -> dict[str, Param]:
    """What a run may decide."""
    name = r"^[A-Za-z][A-Za-z0-9_]*$"
    version = r"^(\d|\{date\})+\.(\d|\{date\})+\.(\d|\{date\})+$"
    return {
        "name": Param(defaults["name"], type="string", pattern=name, description="of the datasets: letters, digits, _"),
        "version": Param(
            defaults["version"], type="string", pattern=version,
            description="three numbers; {date} becomes the run's date, 20261124",
        ),
        "budget": Param(
            defaults["budget"], type="number", exclusiveMinimum=0,
            description="rows to curate; below 1, a fraction of the pool",
        ),
        "pool": Param(defaults["pool"], type="string", description="the raw pairs; {date} becomes the run's date"),
        "output": Param(
            defaults["output"], type="string", pattern=r"\{version\}",
            description="directory of this round; {version} in it keeps versions apart",
        ),
    }  # fmt: skip


def make_dag(deployed: dict[str, Any]) -> DAG:
    """The DAG of a deployed round."""
    with DAG(
        dag_id=deployed["dag_id"],
        schedule=deployed["schedule"],
        catchup=False,
        max_active_runs=1,
        params=parameters(deployed["params"]),
        user_defined_macros={"filled": filled, "jobset_name": jobset_name},
        default_args={
            "retries": deployed["retries"],
            "retry_delay": timedelta(minutes=5),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(hours=1),
        },
        tags=["superbatch"],
        doc_md=f"A round of data curation, deployed from `{deployed['config']}`: see {__name__}.py.",
    ) as dag:
        tasks = {stage["id"]: make_task(stage, deployed) for stage in deployed["stages"]}
        for stage in deployed["stages"]:
            for needed in stage["inputs"]:
                tasks[needed] >> tasks[stage["id"]]
    return dag


def make_task(stage: dict[str, Any], deployed: dict[str, Any]) -> Any:
    """The task of a stage."""
    common = {"task_id": stage["id"], "doc_md": stage["name"]}
    made = {name: stage[name] for name in ("kind", "config", "output")}
    cloud = {"project_id": deployed["project"], "gcp_conn_id": deployed["connection"]}
    cluster = {"cluster_name": deployed["cluster"], "location": deployed["cluster_location"]} | cloud
    cluster["use_dns_endpoint"] = True  # a cluster without public addresses answers there, too
    if stage["kind"] in ("beam", "publish"):
        return FlexJob(**common, **cloud, location=deployed["region"], body=stage["body"], stage=made)
    if stage["kind"] == "trainer":
        return JobSet(**common, **cluster, manifest=stage["manifest"], stage=made)
    if stage["kind"] == "evaluate":
        return GKEStartPodOperator(**common, **cluster, **stage["pod"], deferrable=True)
    if stage["kind"] == "gate":
        return ShortCircuitOperator(
            **common, python_callable=compare, op_kwargs=stage["config"] | {"connection": deployed["connection"]}
        )
    raise ValueError(f"stage {stage['id']} is of kind {stage['kind']!r}: this file is older than what was deployed")


for _path in sorted(Path(__file__).parent.glob("*.superbatch.json")):
    _dag = make_dag(json.loads(_path.read_text()))
    globals()[_dag.dag_id] = _dag
