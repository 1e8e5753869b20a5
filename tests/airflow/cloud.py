"""Stand-ins for Dataflow and Kubernetes on this machine: what they are asked to run, they run, by the real commands.

The commands run in the project's own environment, in processes of their own. Airflow's operators, hooks' callers,
deferral, templates and trigger rules are the real ones.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

ROOT = Path(__file__).parents[2]
_COMPILED = tempfile.mkdtemp(prefix="superbatch-compiled-")
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
PYTHON = os.environ.get("SUPERBATCH_PYTHON", str(ROOT / ".venv/bin/python"))


def run(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a module of the project."""
    # What Airflow has set for itself is nothing to the commands.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": _COMPILED} | environment
    return subprocess.run(
        [PYTHON, "-W", "ignore", "-m", module, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@dataclass
class Dataflow:
    """Launches Flex templates: what Dataflow passes to the launcher is what the job is called with."""

    launched: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def launch(self, body: dict[str, Any]) -> dict[str, str]:
        """Runs a launch request to its end."""
        asked = body["launchParameter"]
        job = Path(asked["containerSpecGcsPath"]).stem
        self.launched.append(job)
        self.bodies.append(body)
        done = run(f"beam_pipelines.{job}", *(f"--{name}={value}" for name, value in asked["parameters"].items()))
        if done.returncode:
            raise RuntimeError(f"{job}: {done.stderr}")
        return {"id": f"{len(self.launched)}-{job}"}


@dataclass
class Kubernetes:
    """Custom objects of one cluster; a JobSet that is made runs at once, as its policies say."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # subcommands whose next attempt fails

    def get_namespaced_custom_object(self, *, name: str, **_: Any) -> dict[str, Any]:
        """As Kubernetes's client."""
        if name not in self.objects:
            raise ApiException(status=404)
        return self.objects[name]

    def create_namespaced_custom_object(self, *, body: dict[str, Any], **_: Any) -> None:
        """As Kubernetes's client."""
        name, [job] = body["metadata"]["name"], body["spec"]["replicatedJobs"]
        [container] = job["template"]["spec"]["template"]["spec"]["containers"]
        command = container["command"]
        self.commands.append(command)
        if command[1] in self.broken:
            self.broken.remove(command[1])
            code, said = 1, "broken on purpose"
        else:
            done = run("infra.cli", *command[1:])
            code, said = done.returncode, done.stderr
        state = "Failed" if code else "Completed"
        self.objects[name] = body | {"status": {"conditions": [{"type": state, "status": "True", "message": said}]}}

    def delete_namespaced_custom_object(self, *, name: str, **_: Any) -> None:
        """As Kubernetes's client."""
        del self.objects[name]

    def run_pod(self, command: list[str]) -> None:
        """Runs a pod's command to its end."""
        self.commands.append(command)
        done = run("infra.cli", *command[1:])
        if done.returncode:
            raise RuntimeError(done.stderr)
        sys.stderr.write(done.stderr)
