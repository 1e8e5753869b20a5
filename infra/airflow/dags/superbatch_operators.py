"""The operators of a round: Google's, which launch nothing where the output is complete, and a sensor for JobSets.

Whether it is complete, its manifest says, which every command writes last. A manifest of other settings than this run's
fails the task: the command would refuse that output as well, minutes later.
"""

import json
from typing import Any

from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator
from airflow.providers.google.cloud.operators.kubernetes_engine import GKEOperatorMixin
from airflow.sdk import BaseSensorOperator, ObjectStoragePath
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client.exceptions import ApiException
from superbatch_gate import judge

_GROUP, _VERSION, _PLURAL = "jobset.x-k8s.io", "v1alpha2", "jobsets"


class FlexJob(DataflowStartFlexTemplateOperator):
    """Launches a Flex template and waits in the triggerer; does nothing where the stage's output is complete.

    A launcher that finds nothing to do submits no job, and a launch without a job counts as failed.
    """

    template_fields = (*DataflowStartFlexTemplateOperator.template_fields, "stage")

    def __init__(self, *, stage: dict[str, Any], **keywords: Any):
        super().__init__(**keywords, deferrable=True)
        self.stage = stage

    def execute(self, context: Any) -> Any:
        if is_complete(self.stage, self.gcp_conn_id):
            self.log.info("%s is complete already: nothing to do", self.stage["output"])
            return None
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        job = super().execute_complete(context, event)
        check_complete(self.stage, self.gcp_conn_id)
        return job


class JobSet(GKEOperatorMixin, BaseSensorOperator):
    """Sees to it that a JobSet runs to its end: makes it, looks at it now and then, and removes it if it failed.

    Each look is a task of a second, in which everything is read from the cluster anew. A retry finds what the attempt
    before it made; one after a failure makes it again, and the trainer goes on from its checkpoint.
    """

    template_fields = ("manifest", "stage", *GKEOperatorMixin.template_fields)

    def __init__(
        self, *, manifest: dict[str, Any], stage: dict[str, Any], project_id: str, location: str, cluster_name: str,
        gcp_conn_id: str, use_dns_endpoint: bool = False, poke_interval: float = 60, timeout: float = 7 * 24 * 3600,
        **keywords: Any,
    ):  # fmt: skip
        super().__init__(mode="reschedule", poke_interval=poke_interval, timeout=timeout, **keywords)
        self.manifest, self.stage = manifest, stage
        self.project_id, self.location, self.cluster_name = project_id, location, cluster_name
        self.gcp_conn_id, self.impersonation_chain = gcp_conn_id, None
        self.use_internal_ip, self.use_dns_endpoint = False, use_dns_endpoint

    def poke(self, context: Any) -> bool:
        if is_complete(self.stage, self.gcp_conn_id):
            return True
        found = self._find()
        if found is None:
            self._call("create", body=self.manifest)
            self.log.info("made JobSet %s", self._name)
            return False
        for ended in ("Completed", "Failed"):
            if ended in (conditions := _conditions(found)) and "deletionTimestamp" not in found["metadata"]:
                self._call("delete", name=self._name, propagation_policy="Foreground")
                raise AirflowException(
                    f"JobSet {self._name} is {ended}, and {self.stage['output']} has no manifest.json: "
                    f"{conditions[ended]}. Its pods' logs say why"
                )
        restarts = found.get("status", {}).get("restarts", 0)
        self.log.info("JobSet %s is not finished; %d restarts so far", self._name, restarts)
        return False

    @property
    def _name(self) -> str:
        return self.manifest["metadata"]["name"]

    def _find(self) -> dict[str, Any] | None:
        try:
            return self._call("get", name=self._name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _call(self, what: str, **keywords: Any) -> Any:
        function = getattr(self.hook.custom_object_client, f"{what}_namespaced_custom_object")
        namespace = self.manifest["metadata"]["namespace"]
        return function(group=_GROUP, version=_VERSION, namespace=namespace, plural=_PLURAL, **keywords)


def compare(*, curated: list[str], control: list[str], connection: str, metric: str = "recall_at_1") -> bool:
    """Says whether models trained on the curated set did better than those trained on its control."""
    verdict = judge(curated, control, lambda path: _path(path, connection).read_bytes(), metric)
    print(verdict)
    return verdict.passed


def check_complete(stage: dict[str, Any], connection: str) -> None:
    """Raises AirflowException if the output of a stage that has ended is not complete."""
    if not is_complete(stage, connection):
        raise AirflowException(f"it ended well, and {stage['output']} has no manifest.json: its log says what it did")


def is_complete(stage: dict[str, Any], connection: str) -> bool:
    """Says whether a stage's output is there; raises AirflowFailException if it is there, and of other settings."""
    output, wanted = stage["output"], stage["config"]
    manifest = _manifest(output, connection)
    if manifest is None:
        return False
    if stage["kind"] == "publish":
        dataset = _manifest(wanted["dataset"], connection)
        if dataset is None or dataset["fingerprint"] != manifest["fingerprint"]:
            raise AirflowFailException(
                f"{output} holds another dataset than {wanted['dataset']}: a version is for good"
            )
        return True
    stored = manifest["config"] | {name: manifest[name] for name in ("name", "version")}
    compared = {"name", "version", *manifest["content_fields"]} & wanted.keys() & stored.keys()
    if differing := [n for n in sorted(compared) if wanted[n] is not None and not _same(stored[n], wanted[n])]:
        shown = "; ".join(f"{n} was {stored[n]!r}, now {wanted[n]!r}" for n in differing)
        raise AirflowFailException(f"{output} was made with other settings ({shown}): run this under another version")
    return True


def _manifest(directory: str, connection: str) -> dict[str, Any] | None:
    try:
        return json.loads(_path(f"{directory}/manifest.json", connection).read_bytes())
    except FileNotFoundError:
        return None


def _path(path: str, connection: str) -> ObjectStoragePath:
    return ObjectStoragePath(path, conn_id=connection) if "://" in path else ObjectStoragePath(f"file://{path}")


def _same(stored: Any, wanted: Any) -> bool:
    """Compares values of which one was text for a while."""
    try:
        return stored == wanted or float(stored) == float(wanted)
    except (TypeError, ValueError):
        return str(stored) == str(wanted)


def _conditions(found: dict[str, Any]) -> dict[str, str]:
    conditions = found.get("status", {}).get("conditions", [])
    return {c["type"]: c.get("message", "") for c in conditions if c["status"] == "True"}
