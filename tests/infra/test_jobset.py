"""The JobSet of a training run: accepted whole by the schema, and what it says of stopping, hosts and topologies."""

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from infra.tpu import jobset
from schemas.errors import ConfigError
from tests import commands

DISTILL = ["superbatch", "distill", "--corpus=gs://b/pool"]


def machines(**fields) -> jobset.Machines:
    return jobset.Machines(**{"image": "registry/superbatch@sha256:0"} | fields)


def read_strictly(manifest: dict) -> dict:
    """What the schema's own classes make of a manifest: what they do not know is gone, what has a wrong type fails."""
    read = JobsetV1alpha2JobSet.from_dict(manifest)
    assert read is not None
    return read.to_dict()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"topology": "1x1", "hosts": 1, "spot": True},
        {"accelerator": "tpu-v5p-slice", "topology": "4x4x8", "hosts": 32},
        {"accelerator": "tpu-v6e-slice", "topology": "2x4", "hosts": 1},
    ],
)
def test_the_schema_knows_every_word(fields):
    made = yaml.safe_load(yaml.safe_dump(jobset.manifest(machines(**fields), "distill", DISTILL)))
    read = read_strictly(made)
    # Quantities become numbers there.
    for manifest in (read, made):
        [job] = manifest["spec"]["replicatedJobs"]
        resources = job["template"]["spec"]["template"]["spec"]["containers"][0]["resources"]
        for kind, quantities in resources.items():
            resources[kind] = {name: float(quantity) for name, quantity in quantities.items()}
    assert read == made


def test_the_schema_finds_a_mistyped_word_and_a_wrong_type():
    made = jobset.manifest(machines(), "distill", DISTILL)
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["backofLimit"] = 3
    assert "backofLimit" not in str(read_strictly(made))
    job["backoffLimit"] = "none"
    with pytest.raises(ValueError, match="backoffLimit"):
        read_strictly(made)


def test_chips_and_hosts_fit_the_topology():
    made = jobset.manifest(machines(topology="8x8", hosts=16), "distill", DISTILL)
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (16, 16, "Indexed")
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": "4"}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "8x8"
    assert "--distributed" in pod["containers"][0]["command"]
    alone = jobset.manifest(machines(topology="2x4", hosts=1), "distill", DISTILL)
    container = alone["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"google.com/tpu": "8"}
    assert "--distributed" not in container["command"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hosts": 3}, r"hosts is 3; 16 chips \(4x4\) of tpu-v5-lite-podslice are 4 hosts"),
        ({"topology": "2x4", "hosts": 4}, r"8 chips \(2x4\) of tpu-v5-lite-podslice are 1 or 2 hosts"),
        ({"topology": "4x4x4"}, "topology is '4x4x4'; of tpu-v5-lite-podslice it is like 4x4"),
        ({"accelerator": "v5e"}, "accelerator is 'v5e'; it must be one of tpu-v4-podslice"),
        ({"grace_seconds": -1}, "grace_seconds is -1"),
        ({"namespace": "Team_A"}, "namespace is 'Team_A'; it must be lower-case letters"),
    ],
)
def test_what_cannot_be_is_refused_with_the_numbers(fields, words):
    with pytest.raises(ConfigError, match=words):
        machines(**fields)


def test_a_name_that_is_too_long_for_a_pods_and_another_command_are_refused():
    with pytest.raises(ConfigError, match="at most 40 characters"):
        jobset.manifest(machines(), "d" * 41, DISTILL)
    with pytest.raises(ConfigError, match="must begin with superbatch distill, or train"):
        jobset.manifest(machines(), "d", ["bash", "-c", "superbatch distill"])


def test_the_command_line_prints_a_stage_of_a_round(miniature):
    flags = ["--name=distill", "--image=i", f"--config={miniature.parent / 'round.toml'}"]
    process = commands.start_module("infra.tpu.jobset", [*flags, "--stage=distill"])
    other = commands.start_module("infra.tpu.jobset", [*flags, "--stage=curate"])
    (code, said), (refused, why) = commands.finish([process, other])
    assert code == 0, said
    container = yaml.safe_load(said)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container[0]["command"][:2] == ["superbatch", "distill"]
    assert f"--embeddings={miniature / 'embeddings'}" in container[0]["command"]
    assert refused == 1
    assert "stage is 'curate'; the trainer's are: train_reference, distill" in why
