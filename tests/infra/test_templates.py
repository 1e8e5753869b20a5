"""Flex templates: their metadata is made from the jobs, Dataflow's client takes it, and each launches its job."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import dataflow_v1beta3 as dataflow

from infra import cli
from infra.flex import templates
from schemas import errors
from schemas import manifest as manifests
from tests import commands
from tests.conftest import picture

BY_JOB = {template.job: template for template in templates.TEMPLATES}
IMAGE = "europe-docker.pkg.dev/a-project/superbatch/superbatch:0.1.0"
# What the launcher adds to a template's parameters, in its own spelling.
LAUNCHER = [
    "--runner=FnApiRunner", "--job_name=a-job", "--project=a-project", "--region=europe-west4",
    "--temp_location=gs://a-bucket/temp", "--staging_location=gs://a-bucket/staging", "--num_workers=1",
    "--max_num_workers=4", "--worker_machine_type=n2-standard-8", "--no_use_public_ips=true",
    "--service_account_email=a@a-project.iam.gserviceaccount.com", "--experiments=use_runner_v2", "--labels=round=1",
    f"--sdk_container_image={IMAGE}-ingest", "--subnetwork=regions/europe-west4/subnetworks/ours",
]  # fmt: skip


def parameters(job: str) -> dict[str, dict]:
    return {parameter["name"]: parameter for parameter in templates.metadata(BY_JOB[job])["parameters"]}


@pytest.mark.parametrize("job", BY_JOB)
def test_the_metadata_in_the_repository_is_what_the_config_says(job):
    for folder in (templates.METADATA, templates.TERRAFORM_METADATA):
        kept = (folder / f"{job}.json").read_bytes()
        assert kept == templates.serialise(templates.metadata(BY_JOB[job])), "run python -m infra.flex.templates"
        assert {path.stem for path in folder.iterdir()} == set(BY_JOB)


@pytest.mark.parametrize("job", BY_JOB)
def test_dataflows_own_messages_take_the_specs_and_know_every_field(job):
    metadata = json.dumps(templates.metadata(BY_JOB[job]))
    read = dataflow.TemplateMetadata.from_json(metadata, ignore_unknown_fields=False)
    assert all(parameter.name and parameter.label and parameter.help_text for parameter in read.parameters)
    spec = templates.container_spec(BY_JOB[job], IMAGE)
    read = dataflow.ContainerSpec.from_json(json.dumps(spec), ignore_unknown_fields=False)
    assert read.image == read.default_environment.sdk_container_image == f"{IMAGE}-{job}"
    with pytest.raises(Exception, match="no field named"):
        dataflow.TemplateMetadata.from_json(metadata.replace("helpText", "helpTxt"), ignore_unknown_fields=False)


@pytest.mark.parametrize("job", BY_JOB)
def test_every_flag_is_a_parameter_with_its_default_and_its_choices(job):
    template, offered = BY_JOB[job], parameters(job)
    fields = {f.name: f for f in dataclasses.fields(template.config) if f.name not in template.left_out}
    assert set(offered) == {*fields, *(flag.name for flag in template.beam_flags)}
    assert set(template.paths) | set(template.choices) | set(template.required) <= set(fields)
    for parameter in offered.values():
        patterns = [re.compile(pattern) for pattern in parameter.get("regexes", [])]
        choices = [option["value"] for option in parameter.get("enumOptions", [])]
        if "defaultValue" in parameter:
            assert parameter["isOptional"]
            assert all(pattern.search(parameter["defaultValue"]) for pattern in patterns)
            assert not choices or parameter["defaultValue"] in choices


def test_what_the_parameters_are_like():
    curate = parameters("curate")
    assert [name for name, p in curate.items() if not p["isOptional"]] == ["corpus", "selections", "output", "budget"]
    assert [option["value"] for option in curate["policy"]["enumOptions"]] == [
        "visits", "learnability", "recent", "weighted",
    ]  # fmt: skip
    assert curate["shards"] == {
        "name": "shards", "label": "Shards", "helpText": "Number of shards.", "isOptional": True,
        "paramType": "NUMBER", "regexes": ["^-?[0-9]+$"], "defaultValue": "8",
    }  # fmt: skip
    assert "visits per offer" in curate["policy"]["helpText"]
    export = parameters("export")
    assert "big_vision" not in str(export["format"]["enumOptions"])
    assert not export["dataset"]["isOptional"]
    [pattern] = curate["corpus"]["regexes"]
    assert re.search(pattern, "gs://a-bucket/corpora/pool")
    assert not re.search(pattern, "/home/corpora/pool")
    [pattern] = parameters("ingest")["source"]["regexes"]
    assert re.search(pattern, "webdataset:gs://raw/{00000..00099}.tar")
    [pattern] = parameters("embed")["dataflow_service_options"]["regexes"]
    assert re.search(pattern, "worker_accelerator=type:tpu-v5-lite-podslice;topology:1x1")


def test_a_switch_becomes_a_boolean_parameter():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        """Of a job with a switch."""

        careful: bool = True
        """look twice"""

    class Switched(templates.Template):
        config = Config  # type: ignore[assignment]

    [parameter] = templates.metadata(Switched("none", "A job", {}))["parameters"]
    assert (parameter["paramType"], parameter["defaultValue"]) == ("BOOLEAN", "true")


def test_a_field_without_a_text_is_no_flag_that_anybody_understands():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        """Of a job whose flag says nothing."""

        silent: int = 1

    with pytest.raises(errors.ConfigError, match=r"Config.silent has no text below it"):
        templates._field_docstrings(Config)


def test_the_command_writes_whole_specs_for_an_image_that_was_pushed(tmp_path, capsys):
    config = templates.TemplatesConfig(image=IMAGE, output=str(tmp_path))
    assert templates.run(config) == [f"{tmp_path}/{job}.json" for job in BY_JOB]
    assert json.loads((tmp_path / "embed.json").read_text())["image"] == f"{IMAGE}-embed"
    for image in ("superbatch:1", f"{IMAGE.split(':')[0]}:latest", IMAGE.split(":")[0]):
        with pytest.raises(Exception, match=r"it must be REPOSITORY/NAME:TAG"):
            templates.TemplatesConfig(image=image, output=str(tmp_path))
    with pytest.raises(Exception, match="give both or none"):
        templates.TemplatesConfig(image=IMAGE)


def values(job: str, miniature, folder) -> dict[str, str]:
    """A value for each parameter without a default; what they need is made by the real commands."""
    corpora = miniature / "corpora"
    if job == "ingest":
        rows = [{"image": picture(i), "text": f"a thing {i}", "language": "en", "url": f"http://x/{i}"} for i in (1, 2)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
        fields = {f"{name}_field": name for name in ("image", "text", "language", "url")}
        return fields | {
            "source": f"parquet:{folder}/rows.parquet", "name": "few", "max_text_repeats": "10",
            "detect_language": "0.9", "output": f"{folder}/out", "shards": "1",
        }  # fmt: skip
    if job == "embed":
        model = ["export", "--format=big_vision", f"--checkpoint={miniature}/workdirs/reference"]
        assert cli.main([*model, f"--output={folder}/model.npz"]) == 0
        return {
            "corpus": f"{corpora}/evaluation", "reference": f"{folder}/model.npz", "output": f"{folder}/out",
            "preset": "tiny", "resolution": "32", "tokenizer": f"{folder}/model.tokenizer.model",
            "decoder": "antialiased", "name": "few", "batch_size": "16",
            "dataflow_service_options": "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver",
            "number_of_worker_harness_threads": "1",
        }  # fmt: skip
    if job == "curate":
        embed = ["embed", f"--corpus={corpora}/evaluation", f"--reference={miniature}/workdirs/reference"]
        assert cli.main([*embed, f"--output={folder}/evaluation", "--batch_size=16"]) == 0
        return {
            "corpus": f"{corpora}/pool", "selections": f"{miniature}/workdirs/distill", "output": f"{folder}/out",
            "budget": "4", "control": f"{folder}/control", "embeddings": f"{miniature}/embeddings",
            "decontaminate": f"{folder}/evaluation", "contaminated_similarity": "1.0", "near_duplicates": "1.0",
            "quota_by": "language", "quotas": '{"en": 1.0}', "shards": "1", "license": "CC-BY-4.0",
            "homepage": "https://example.org/data", "attribution": "us, with thanks", "published": "2026-01-31",
        }  # fmt: skip
    if job == "export":
        return {
            "format": "tfrecord", "dataset": f"{miniature}/curated", "output": f"{folder}/out", "name": "few",
            "version": "2.0.0",
        }  # fmt: skip
    return {
        "dataset": f"{miniature}/curated", "destination": f"{folder}/published", "alias": "latest", "publisher": "us",
    }  # fmt: skip


@pytest.mark.parametrize("job", BY_JOB)
def test_a_launch_runs_the_job(job, miniature, tmp_path):
    """As Dataflow launches it: one file, every parameter in one word, and the launcher's own flags."""
    launcher = shutil.copy(templates.METADATA.parent / "launcher.py", tmp_path / f"{job}.py")
    given = {name: p["defaultValue"] for name, p in parameters(job).items() if "defaultValue" in p}
    given |= values(job, miniature, tmp_path)
    assert set(given) == set(parameters(job))
    words = [f"--{name}={value}" for name, value in given.items()]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", launcher, *words, *LAUNCHER], cwd=commands.ROOT, capture_output=True,
        text=True, timeout=240, check=False, env=os.environ | {"PYTHONPATH": str(commands.ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = f"{tmp_path}/published/mini_curated/1.0.0" if job == "publish" else f"{tmp_path}/out"
    kinds = {"ingest": "corpus", "embed": "embeddings", "curate": "corpus", "export": "export", "publish": "corpus"}
    manifest = manifests.read(made)
    assert (manifest.kind, manifest.rows) == (kinds[job], {"ingest": 2, "curate": 4}.get(job, 16))
