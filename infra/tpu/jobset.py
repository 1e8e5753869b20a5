"""`python -m infra.tpu.jobset`: the JobSet by which Kubernetes runs the trainer on one slice of TPU hosts.

Enters: the machines, and a command such as `superbatch distill …`, given whole or as a stage of a round's file.
Leaves: a manifest (jobset.x-k8s.io/v1alpha2) that survives preemption:

    SIGTERM → every host saves the same step and exits 85 → the Job fails by its pod failure policy
            → the JobSet starts all hosts again, without counting → the same command goes on where it was

A host that vanishes without a word counts as preempted too (its pod has the condition DisruptionTarget). Whatever else
fails is restarted `max_restarts` times: among it are hosts that lost the connection to one that vanished, if Kubernetes
looks at them first. A run that is complete ends at once, so restarting one is harmless.
"""

import dataclasses
import math
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import tyro
import yaml

from beam_pipelines import console
from infra import commands
from schemas.errors import ConfigError

API_VERSION = "jobset.x-k8s.io/v1alpha2"
# Says "stopped on request and saved": no exit code of the trainer's, of a shell's or of a signal's.
STOPPED = 85
CONTAINER = "trainer"
_PORT = 8476  # of JAX's coordinator
# Exit code of a process that SIGTERM ended before the trainer could catch it: while it was starting.
_TERMINATED = 128 + 15
_LONGEST_NAME = 40  # what Kubernetes appends for a pod must fit into a label of 63 characters
# Chips of a host in a slice of several, and how many numbers name its topology.
_SLICES = {
    "tpu-v4-podslice": (4, 3),
    "tpu-v5p-slice": (4, 3),
    "tpu-v5-lite-podslice": (4, 2),
    "tpu-v6e-slice": (4, 2),
}
_SINGLE_HOST = {2: (1, 4, 8), 3: (4,)}  # chips of a host that is a slice by itself, by dimensions of the topology


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The TPU hosts of a run, and how they are treated."""

    image: str
    """container image that has superbatch installed"""
    accelerator: str = "tpu-v5-lite-podslice"
    """GKE's name of the TPU: tpu-v4-podslice, tpu-v5p-slice, tpu-v5-lite-podslice (v5e) or tpu-v6e-slice"""
    topology: str = "4x4"
    """chips of the slice along each dimension"""
    hosts: int = 4
    """hosts of the slice: its chips over 4; a slice of up to 8 chips of v5e and v6e may be one host"""
    spot: bool = False
    """take capacity that can be taken back at any moment"""
    namespace: str = "superbatch"
    """Kubernetes namespace"""
    service_account: str = "trainer"
    """Kubernetes service account, which stands for one of Google's (Workload Identity)"""
    max_restarts: int = 5
    """restarts after failures; those after preemptions are not counted"""
    grace_seconds: int = 120
    """seconds between SIGTERM and the end: a step and its checkpoint must fit. Spot capacity gives less than asked"""
    keep_seconds: int = 86_400
    """a finished JobSet is deleted after so long"""

    def __post_init__(self) -> None:
        if self.accelerator not in _SLICES:
            raise ConfigError(f"accelerator is {self.accelerator!r}; it must be one of {', '.join(_SLICES)}")
        _, dimensions = _SLICES[self.accelerator]
        if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{dimensions - 1}}}", self.topology):
            example = "x".join(["4"] * dimensions)
            raise ConfigError(f"topology is {self.topology!r}; of {self.accelerator} it is like {example}")
        if self.hosts not in (possible := self._possible_hosts()):
            raise ConfigError(
                f"hosts is {self.hosts}; {self.chips} chips ({self.topology}) of {self.accelerator} are "
                f"{' or '.join(map(str, possible)) or 'no whole number of'} hosts"
            )
        for field in ("max_restarts", "grace_seconds", "keep_seconds"):
            if getattr(self, field) < 0:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 0")
        for field in ("namespace", "service_account"):
            _check_label(field, getattr(self, field))
        if not self.image or any(map(str.isspace, self.image)):
            raise ConfigError(f"image is {self.image!r}; it must name a container image")

    @property
    def chips(self) -> int:
        """Chips of the slice."""
        return math.prod(map(int, self.topology.split("x")))

    def _possible_hosts(self) -> list[int]:
        per_host, dimensions = _SLICES[self.accelerator]
        possible = {1} if self.chips in _SINGLE_HOST[dimensions] else set()
        if self.chips % per_host == 0:
            possible.add(self.chips // per_host)
        return sorted(possible)


@dataclass(frozen=True, kw_only=True)
class JobSetConfig(Machines):
    """Print the JobSet that runs a training command on TPU hosts, as YAML for `kubectl apply -f -`."""

    name: str
    """name of the JobSet: lower-case letters, digits and -"""
    command: str | None = None
    """the command, in one word: "superbatch distill --corpus=gs://… …\""""
    config: str | None = None
    """instead of a command, a round's TOML file, and --stage of it"""
    stage: str | None = None
    """id of a stage of --config that the trainer runs, such as distill"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.command is None) == (self.config is None) or (self.config is None) != (self.stage is None):
            raise ConfigError("give either --command, or --config (a round's file) with --stage (distill, for example)")

    def arguments(self) -> list[str]:
        """The command's words."""
        if self.command is not None:
            return shlex.split(self.command)
        from infra import round as rounds  # which imports every job

        assert self.config is not None
        planned = [stage for stage, _ in rounds.plan(rounds.read(self.config)) if stage.kind == "trainer"]
        for stage in planned:
            if stage.id == self.stage:
                return commands.command(stage)
        raise ConfigError(f"stage is {self.stage!r}; the trainer's are: {', '.join(stage.id for stage in planned)}")


def manifest(machines: Machines, name: str, command: list[str]) -> dict[str, Any]:
    """Returns the JobSet of a `superbatch train` or `superbatch distill`.

    Args:
      machines: what it runs on.
      name: of the JobSet; values that a scheduler fills in later are let through.
      command: the command's words, `superbatch` first. How it is told of other hosts and of stopping is added.

    Raises:
      ConfigError: it is another command, or the name is none that Kubernetes takes.
    """
    if command[:2] not in (["superbatch", "train"], ["superbatch", "distill"]):
        raise ConfigError(f"command is {shlex.join(command)!r}; it must begin with superbatch distill, or train")
    if "{{" not in name:
        _check_label("name", name)
    if machines.hosts > 1 and "--distributed" not in command:
        command = [*command, "--distributed"]
    pod = {
        "restartPolicy": "Never",  # a pod failure policy asks for it; the JobSet restarts
        "serviceAccountName": machines.service_account,
        "terminationGracePeriodSeconds": machines.grace_seconds,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": machines.accelerator,
            "cloud.google.com/gke-tpu-topology": machines.topology,
        }
        | ({"cloud.google.com/gke-spot": "true"} if machines.spot else {}),
        "containers": [
            {
                "name": CONTAINER,
                "image": machines.image,
                "command": [*command, f"--exit_code_if_stopped={STOPPED}"],
                "env": _coordinates(name, machines.hosts) if machines.hosts > 1 else [],
                "ports": [{"name": "coordinator", "containerPort": _PORT, "protocol": "TCP"}],
                "resources": {kind: {"google.com/tpu": str(machines.chips // machines.hosts)} for kind in _RESOURCES},
            }
        ],
    }
    job = {
        "completionMode": "Indexed",
        "completions": machines.hosts,
        "parallelism": machines.hosts,
        "backoffLimit": 0,  # one host alone cannot be started again: the others wait for what it no longer knows
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [STOPPED, _TERMINATED],
                    },
                },
            ]
        },
        "template": {"spec": pod},
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": machines.namespace,
            # All hosts in one node pool, which is one slice.
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "ttlSecondsAfterFinished": machines.keep_seconds,
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": name},
            "failurePolicy": {
                "maxRestarts": machines.max_restarts,
                "restartStrategy": "BlockingRecreate",  # no new host meets an old one
                "rules": [
                    {
                        "name": "preempted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [{"name": _JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }


_JOB = "hosts"
_RESOURCES = ("requests", "limits")


def _coordinates(name: str, hosts: int) -> list[dict[str, Any]]:
    """How the processes find each other (`trainer.parallel.start_processes`)."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return [
        {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{name}-{_JOB}-0-0.{name}:{_PORT}"},
        {"name": "JAX_NUM_PROCESSES", "value": str(hosts)},
        {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]


def _check_label(field: str, value: str) -> None:
    if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{_LONGEST_NAME - 2}}}[a-z0-9])?", value):
        raise ConfigError(
            f"{field} is {value!r}; it must be lower-case letters, digits and -, begin with a letter, end with none of "
            f"the dashes, and have at most {_LONGEST_NAME} characters"
        )


def _main() -> int:
    config = tyro.cli(JobSetConfig, prog="python -m infra.tpu.jobset", use_underscores=True)
    machines = Machines(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Machines)})
    made = manifest(machines, config.name, config.arguments())
    print(yaml.safe_dump(made, sort_keys=False, width=120), end="")
    return 0


def main() -> NoReturn:
    """Runs the command line."""
    sys.exit(console.run_command("infra.tpu.jobset", _main))


if __name__ == "__main__":
    main()
