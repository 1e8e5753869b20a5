"""`python -m infra.airflow.deploy`: a round's file becomes a DAG in a folder that Airflow reads.

Enters: a round's file and a file that says where it runs. Leaves, in the DAG folder: `NAME.superbatch.json`, which
holds every task's whole request (to Dataflow, to Kubernetes), and the Python files that make DAGs of such.

The stages are those of `superbatch round`, checked by their commands' own configs. Then they are listed once more with
Airflow's placeholders where a run may decide: name, version, budget, pool and output. Airflow needs nothing of ours
installed, and its parsing, twice a minute, costs a few milliseconds.
"""

import dataclasses
import json
import sys
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import tyro

from beam_pipelines import console
from infra import commands, stages
from infra import round as rounds
from infra.stages import Round, Stage
from infra.tpu import jobset
from schemas import storage
from schemas.errors import ConfigError

SUFFIX = ".superbatch.json"
_DAGS = Path(__file__).parent / "dags"
_FILES = {
    "superbatch_round.py": _DAGS / "superbatch_round.py",
    "superbatch_operators.py": _DAGS / "superbatch_operators.py",
    "superbatch_gate.py": Path(__file__).parent.parent / "gate.py",
}
# What a run may decide, as Airflow's templates say it; `filled` and `jobset_name` are in superbatch_round.py.
_NAME, _BUDGET = "{{ params.name }}", "{{ params.budget }}"
_VERSION, _POOL, _OUTPUT = (f"{{{{ filled('{name}', params, dag_run) }}}}" for name in ("version", "pool", "output"))
_LABEL = "{{ params.name | lower }}"
_DASHED = "{{ params.name | lower | replace('_', '-') }}"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The machines of a Beam job; what is not given is Dataflow's own choice."""

    machine_type: str | None = None
    max_workers: int | None = None
    disk_gb: int | None = None
    accelerator: str | None = None  # of each worker of `embed`: type:nvidia-l4;count:1;install-nvidia-driver


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where rounds run: most of it is the output `deployment` of infra/terraform, by the same names."""

    project: str
    """Google Cloud project"""
    region: str
    """of Dataflow"""
    templates: str
    """gs:// folder of the Flex templates, JOB.json each, which name their images"""
    temporary: str
    """gs:// folder for Dataflow's temporary files"""
    publisher_temporary: str
    """the same for publications, where no other account writes"""
    worker_service_account: str
    """e-mail of the account of ingest, embed and curate"""
    publisher_service_account: str
    """e-mail of the only account that may write where datasets are published"""
    subnetwork: str
    """of the workers, which have no public addresses: regions/REGION/subnetworks/NAME"""
    cluster: str
    """GKE cluster that has JobSet and the TPU node pool"""
    cluster_location: str
    """its region or zone"""
    trainer: jobset.Machines
    """what the trainer runs on; its image, namespace and account are the evaluations', too"""
    workers: dict[str, Workers] = field(default_factory=dict)
    """machines of a Beam job, by job"""
    evaluation_cpu: str = "4"
    """CPUs of an evaluation's pod, which has no accelerator"""
    evaluation_memory: str = "16Gi"
    """memory of an evaluation's pod"""
    schedule: str | None = None
    """cron expression or Airflow preset; only started by hand if not given"""
    version: str | None = None
    """version of a run that says none; {date} becomes its date, 20261124. The round's own if not given"""
    retries: int = 3
    """further attempts at a stage"""
    connection: str = "google_cloud_default"
    """Airflow's connection to Google Cloud"""

    def __post_init__(self) -> None:
        for name in ("templates", "temporary", "publisher_temporary"):
            if not storage.is_remote(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a folder in a bucket, gs://…")
        if unknown := set(self.workers) - _BEAM_JOBS:
            raise ConfigError(f"workers.{min(unknown)}: there is no such Beam job in a round, only {_listed()}")
        for job, workers in self.workers.items():
            if workers.accelerator is not None and job != "embed":
                raise ConfigError(f"workers.{job}.accelerator is {workers.accelerator!r}; only embed uses one")
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}; it must be at least 0")
        if self.schedule is not None and "{date}" not in (self.version or ""):
            raise ConfigError(
                f"schedule is {self.schedule!r}, and version is {self.version!r}: every scheduled run needs a version "
                'of its own, such as version = "1.{date}.0", or all but the first find everything made'
            )


_BEAM_JOBS = {"ingest", "embed", "curate", "publish"}


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """Write a round's DAG into a folder that Airflow reads."""

    config: str
    """TOML file of the round, whose paths are all gs://"""
    deployment: str
    """TOML file that says where it runs: see infra/airflow/deployment.example.toml"""
    output: str
    """Airflow's DAG folder, local or gs:// (Composer's)"""


def run(config: DeployConfig) -> str:
    """Writes the DAG; returns where it lies.

    Raises:
      ConfigError: a file that cannot be used, or a stage that its command refuses.
    """
    settings = rounds.read(config.config)
    made = describe(settings, read_deployment(config.deployment), config.config)
    root = storage.as_path(config.output)
    for name, source in _FILES.items():
        storage.replace(root / name, source.read_bytes())
    path = root / f"{settings.name}{SUFFIX}"  # last: until then there is no new DAG
    storage.replace(path, json.dumps(made, indent=2, ensure_ascii=False).encode() + b"\n")
    return str(path)


def read_deployment(path: str) -> Deployment:
    """Reads a deployment's file.

    Raises:
      ConfigError: it cannot be parsed, lacks something, or has keys that nothing knows.
    """
    try:
        content = tomllib.loads(storage.read_bytes(path).decode())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: see infra/airflow/deployment.example.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    trainer = content.pop("trainer", {})
    workers = content.pop("workers", {})
    _known(path, content, Deployment, {"trainer", "workers"})
    _known(f"{path} [trainer]", trainer, jobset.Machines)
    for job, section in workers.items():
        _known(f"{path} [workers.{job}]", section, Workers)
    return rounds.build(
        path, Deployment, **content,
        trainer=rounds.build(f"{path} [trainer]", jobset.Machines, **trainer),
        workers={job: rounds.build(f"{path} [workers.{job}]", Workers, **s) for job, s in workers.items()},
    )  # fmt: skip


def describe(settings: Round, deployment: Deployment, config: str) -> dict[str, Any]:
    """Returns everything that the DAG's file is told of a round.

    Raises:
      ConfigError: a stage's command refuses its settings.
    """
    if not storage.is_remote(settings.output) and not Path(settings.output).is_absolute():
        raise ConfigError(f"output is {settings.output!r}; for other machines it must be in a bucket, gs://…")
    checked = rounds.plan(settings)
    budget = settings.sections.get("curate", {}).get("budget")
    placed = dataclasses.replace(
        settings, name=_NAME, version=_VERSION, output=_OUTPUT, pool=_POOL,
        sections=settings.sections | {"curate": settings.sections["curate"] | {"budget": _BUDGET}},
    )  # fmt: skip
    listed = stages.graph(placed)
    assert [stage.id for stage in listed] == [stage.id for stage, _ in checked]
    return {
        "dag_id": f"superbatch_{settings.name}",
        "config": config,
        "schedule": deployment.schedule,
        "retries": deployment.retries,
        "connection": deployment.connection,
        "project": deployment.project,
        "region": deployment.region,
        "cluster": deployment.cluster,
        "cluster_location": deployment.cluster_location,
        "params": {
            "name": settings.name,
            "version": deployment.version or settings.version,
            "budget": budget,
            "pool": settings.pool,
            # A version of a round has a directory of its own: what is complete there is this version's.
            "output": stages.join(settings.output, "{version}"),
        },
        "stages": [_stage(stage, deployment) for stage in listed],
    }


def _stage(stage: Stage, deployment: Deployment) -> dict[str, Any]:
    made = dataclasses.asdict(stage)
    if stage.kind in ("beam", "publish"):
        made["body"] = {"launchParameter": launch(stage, deployment)}
    elif stage.kind == "trainer":
        name = f"{{{{ jobset_name('{stage.id.replace('_', '-')}', run_id) }}}}"
        made["manifest"] = jobset.manifest(deployment.trainer, name, commands.command(stage))
    elif stage.kind == "evaluate":
        resources = {"cpu": deployment.evaluation_cpu, "memory": deployment.evaluation_memory}
        made["pod"] = {
            "name": stage.id.replace("_", "-"),
            "namespace": deployment.trainer.namespace,
            "service_account_name": deployment.trainer.service_account,
            "image": deployment.trainer.image,
            "cmds": commands.command(stage),
            "env_vars": {"JAX_PLATFORMS": "cpu"},
            "container_resources": {"requests": resources, "limits": resources},
        }
    return made


def launch(stage: Stage, deployment: Deployment) -> dict[str, Any]:
    """What Dataflow is asked for: `LaunchFlexTemplateParameter`."""
    workers = deployment.workers.get(stage.job, Workers())
    account, temporary = deployment.worker_service_account, deployment.temporary
    if stage.kind == "publish":
        account, temporary = deployment.publisher_service_account, deployment.publisher_temporary
    environment = {
        "serviceAccountEmail": account,
        "tempLocation": temporary,
        "stagingLocation": stages.join(temporary, "staging"),
        "subnetwork": deployment.subnetwork,
        "ipConfiguration": "WORKER_IP_PRIVATE",
        "machineType": workers.machine_type,
        "maxWorkers": workers.max_workers,
        "diskSizeGb": workers.disk_gb,
        "additionalUserLabels": {"superbatch-round": _LABEL, "superbatch-stage": stage.id},
    }
    parameters = commands.parameters(stage)
    if workers.accelerator is not None:  # one model a worker, and not one a core
        parameters["dataflow_service_options"] = f"worker_accelerator={workers.accelerator}"
        parameters["number_of_worker_harness_threads"] = "1"
    return {
        "jobName": f"{_DASHED}-{stage.id.replace('_', '-')}",
        "containerSpecGcsPath": stages.join(deployment.templates, f"{stage.job}.json"),
        "parameters": parameters,
        "environment": {name: value for name, value in environment.items() if value is not None},
    }


def _known(where: str, section: dict[str, Any], config: type, elsewhere: Collection[str] = ()) -> None:
    rounds.refuse_unknown(where, section, {f.name for f in dataclasses.fields(config)} - set(elsewhere))


def _listed() -> str:
    return ", ".join(sorted(_BEAM_JOBS))


def _main() -> int:
    config = tyro.cli(DeployConfig, prog="python -m infra.airflow.deploy", use_underscores=True)
    print(f"wrote {run(config)}")
    return 0


def main() -> NoReturn:
    """Runs the command line."""
    sys.exit(console.run_command("infra.airflow.deploy", _main))


if __name__ == "__main__":
    main()
