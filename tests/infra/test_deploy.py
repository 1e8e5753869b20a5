"""Rounds for Airflow: requests that Dataflow's own messages accept, the flags of `superbatch round`, and refusals.

What Airflow makes of them is tested in its own environment: `make airflow-test`.
"""

import ast
import json
import sys
import tomllib
from pathlib import Path

import pytest

from beam_pipelines import curate
from infra import commands as command_lines
from infra import round as rounds
from infra import stages
from infra.airflow import deploy
from schemas.errors import ConfigError

AIRFLOW = Path(deploy.__file__).parent
EXAMPLE = AIRFLOW / "deployment.example.toml"


@pytest.fixture(scope="module")
def settings(miniature, tmp_path_factory) -> stages.Round:
    path = tmp_path_factory.mktemp("round") / "round.toml"
    text = (miniature.parent / "round.toml").read_text()
    text = text.replace("budget = 16", 'budget = 16\nquota_by = "language"\nquotas = {en = 0.5, "*" = 0.5}')
    path.write_text(f'{text}\n[publish]\ndestination = "gs://published"\nalias = "latest"\n')
    return rounds.read(str(path))


@pytest.fixture(scope="module")
def described(settings) -> dict:
    return deploy.describe(settings, deploy.read_deployment(str(EXAMPLE)), "round.toml")


def filled(stage: dict, params: dict) -> dict:
    """A stage with the placeholders that Airflow would fill in, filled in with the round's own values."""
    text = json.dumps(stage, ensure_ascii=False)
    for placeholder, value in (
        ("{{ params.name }}", params["name"]), ("{{ params.budget }}", params["budget"]),
        ("{{ params.name | lower }}", "mini"), ("{{ params.name | lower | replace('_', '-') }}", "mini"),
        *((f"{{{{ filled('{n}', params, dag_run) }}}}", params[n]) for n in ("version", "pool", "output")),
    ):  # fmt: skip
        text = text.replace(placeholder, str(value))
    return json.loads(text)


def test_tasks_are_told_what_the_round_would_run(settings, described):
    params = described["params"] | {"version": settings.version, "output": settings.output}
    planned = {stage.id: stage for stage, _ in rounds.plan(settings)}
    assert [stage["id"] for stage in described["stages"]] == list(planned)
    for stage in described["stages"]:
        made, ours = filled(stage, params), planned[stage["id"]]
        assert "{{" not in json.dumps({k: v for k, v in made.items() if k != "manifest"}), made
        assert tuple(made["inputs"]) == ours.inputs
        if "body" in made:
            told = made["body"]["launchParameter"]["parameters"]
            beams_own = {"dataflow_service_options", "number_of_worker_harness_threads"}
            assert set(told) & beams_own == (beams_own if ours.job == "embed" else set())
            assert {k: v for k, v in told.items() if k not in beams_own} == command_lines.parameters(ours)
        elif "manifest" in made:
            [job] = made["manifest"]["spec"]["replicatedJobs"]
            [container] = job["template"]["spec"]["template"]["spec"]["containers"]
            assert container["command"][: -len(["--distributed", "…"])] == command_lines.command(ours)
        elif "pod" in made:
            assert made["pod"]["cmds"] == command_lines.command(ours)


def test_dataflow_knows_every_field_of_a_launch(described):
    from google.cloud.dataflow_v1beta3 import LaunchFlexTemplateRequest
    from google.protobuf.json_format import ParseError

    launches = [stage["body"] for stage in described["stages"] if "body" in stage]
    assert len(launches) == 6
    for body in launches:
        request = LaunchFlexTemplateRequest.from_json(json.dumps(body), ignore_unknown_fields=False)
        assert request.launch_parameter.environment.ip_configuration.name == "WORKER_IP_PRIVATE"
    mistyped = json.dumps(launches[0]).replace('"tempLocation"', '"temporaryLocation"')
    with pytest.raises(ParseError, match="temporaryLocation"):
        LaunchFlexTemplateRequest.from_json(mistyped, ignore_unknown_fields=False)


def test_only_publication_runs_as_the_publisher(described):
    accounts = {
        stage["id"]: stage["body"]["launchParameter"]["environment"]["serviceAccountEmail"].split("@")[0]
        for stage in described["stages"]
        if "body" in stage
    }
    assert [name for name, account in accounts.items() if account == "superbatch-publisher"] == ["publish"]


def test_parameters_in_json_are_what_the_job_reads_back(settings):
    import tyro

    [(stage, config)] = [(s, c) for s, c in rounds.plan(settings) if s.job == "curate"]
    words = [f"--{name}={value}" for name, value in command_lines.parameters(stage).items()]
    assert tyro.cli(curate.CurateConfig, args=words, use_underscores=True) == config
    assert tyro.cli(curate.CurateConfig, args=command_lines.flags(stage), use_underscores=True) == config


def test_what_airflow_imports_is_there_without_ours():
    """Its environment has Airflow, its providers, and the files that are put beside the DAG."""
    beside = {name.removesuffix(".py") for name in deploy._FILES}
    known = {*sys.stdlib_module_names, "airflow", "kubernetes", *beside}
    for name, source in deploy._FILES.items():
        tree = ast.parse(source.read_text())
        imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {module.split(".")[0] for module in imported} <= known, name


def test_a_deployment_writes_the_dag_folder(miniature, tmp_path):
    config = deploy.DeployConfig(
        config=str(miniature.parent / "round.toml"), deployment=str(EXAMPLE), output=str(tmp_path / "dags")
    )
    assert deploy.run(config) == str(tmp_path / "dags/mini.superbatch.json")
    assert {path.name for path in (tmp_path / "dags").iterdir()} == {*deploy._FILES, "mini.superbatch.json"}
    made = json.loads((tmp_path / "dags/mini.superbatch.json").read_text())
    assert made["params"]["version"] == "1.{date}.0"
    assert made["params"]["output"].endswith("/{version}")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('version = "1.{date}.0"', "", "every scheduled run needs a version of its own"),
        ("hosts = 4", "hosts = 5", "hosts is 5; 16 chips"),
        ('project = "PROJECT"', "", "lacks `project`"),
        ("retries = 3", "retry = 3", "unknown keys retry"),
        ("[workers.embed]", "[workers.distill]", "workers.distill: there is no such Beam job"),
        ("[workers.ingest]", '[workers.ingest]\naccelerator = "type:a"', "workers.ingest.accelerator is .*only embed"),
        ('templates = "gs://', 'templates = "/', "templates is .*must be a folder in a bucket"),
    ],
)
def test_a_deployment_that_cannot_work_is_refused(tmp_path, old, new, words):
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / "deployment.toml"
    path.write_text(text.replace(old, new, 1))
    tomllib.loads(path.read_text())
    with pytest.raises(ConfigError, match=words):
        deploy.read_deployment(str(path))


def test_paths_of_this_machine_alone_are_refused(settings):
    import dataclasses

    with pytest.raises(ConfigError, match="output is 'build/demo'; for other machines it must be in a bucket"):
        deploy.describe(
            dataclasses.replace(settings, output="build/demo"), deploy.read_deployment(str(EXAMPLE)), "round.toml"
        )
