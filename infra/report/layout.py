"""Where a round's artifacts lie, and what their manifests say.

Enters: the directory of a round: the `output` of its file, or `round-2` and so on below that. Leaves: every artifact
that a round makes, complete or not, with its manifest and the seconds that it took. The names come from
`infra/stages.py`; a directory in which the same commands were run by hand works as well, if their outputs are called
`pool`, `curated`, ….
A manifest that was altered is reported, with what it says, and nothing else is read of its artifact.
"""

import json
import os
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from infra import stages, timings
from schemas import manifest as manifests
from schemas import selections, storage
from schemas.errors import DataError, IntegrityError

_ROUND = re.compile(r"round-([2-9]|[1-9][0-9]+)")
_DOWNSTREAM = re.compile(r"downstream-(curated|control)-([0-9]+)(?:\.json)?")
# What each stage's artifact is called here, by the stage's id without the number of its round.
_ROLES = {
    "ingest_seed": "seed",
    "ingest_pool": "pool",
    "ingest_evaluation": "evaluation",
    "train_reference": "reference",
    "embed": "embeddings",
    "distill": "selections",
    "curate": "curated",
}
CONTROLS = ("uniform", "top_reference")
_NEEDED = ("seed", "pool", "reference", "embeddings", "selections", "curated")
LABELS = ("curated", "control")
_LONGEST = 300  # characters of what is wrong with a manifest


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a stage makes, made or not."""

    role: str
    stage: str
    """what people call the stage"""
    path: str
    manifest: manifests.Manifest | None
    """None where it is missing, or cannot be believed"""
    problem: str = ""
    """what is wrong with its manifest"""
    stored: dict[str, Any] | None = None
    """the counts as they stand in the file, believed or not"""
    seconds: float | None = None
    """that the stage took; None where nobody wrote it down"""
    figures: bool = False
    """whether it is a file of figures that is there: such a file has no manifest"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A round's artifacts by role, in the order of its stages."""

    directory: str
    output: str
    """that the round's file named: the directory itself, or the one above round-2 and so on"""
    number: int
    """of the round, from 1"""
    others: list[str]
    """directories of the rounds that follow"""
    artifacts: dict[str, Artifact]
    seeds: list[int]
    """of the models trained downstream"""

    def manifest(self, role: str) -> manifests.Manifest | None:
        """The manifest of an artifact that is complete; None if it is not."""
        return self.artifacts[role].manifest if role in self.artifacts else None

    def path(self, role: str) -> str:
        """Where an artifact lies, or would."""
        return self.artifacts[role].path

    def holds(self, path: str) -> bool:
        """Says whether a path, or the pattern of one, lies below the output, wherever its links lead.

        A manifest can name any place, and may come from somebody else.
        """
        if storage.is_remote(path) or storage.is_remote(self.output):
            return path.startswith(f"{self.output}/") and "::" not in path and ".." not in path.split("/")
        if "\0" in path:
            return False
        return os.path.realpath(os.path.expanduser(path)).startswith(f"{os.path.realpath(self.output)}/")

    @property
    def workdirs(self) -> dict[str, str]:
        """The workdirs of all trainings, by what is trained; there or not."""
        found = {"reference": self.path("reference"), "distill": self.path("selections").removesuffix("/selections")}
        for seed in self.seeds:
            for label in LABELS:
                found[f"{label} {seed}"] = self.path(f"downstream-{label}-{seed}")
        return found

    @property
    def missing(self) -> list[Artifact]:
        """What a round makes and this one has not, or not yet."""
        needed = {*_NEEDED, *(["evaluation"] if self.seeds else []), *CONTROLS}
        needed |= {
            f"downstream-{label}-{seed}{end}" for label in LABELS for seed in self.seeds for end in ("", ".json")
        }
        made = {a.role for a in self.artifacts.values() if a.manifest or a.problem or a.figures}
        return [a for a in self.artifacts.values() if a.role in needed - made]


def find(directory: str) -> Layout:
    """Finds the artifacts of a round.

    Raises:
      DataError: there is no artifact of a round, or the bucket cannot be used.
    """
    directory = storage.absolute(directory)
    if manifests.exists(directory):
        kind = manifests.read(directory).kind
        raise DataError(f"{directory} is no round but {kind}: give the directory that its round wrote to, above it")
    parent, _, name = directory.rpartition("/")
    found = _ROUND.fullmatch(name)
    number, output = (int(found[1]), parent) if found else (1, directory)
    seeds = sorted({int(match[2]) for name in _names(directory) if (match := _DOWNSTREAM.fullmatch(name))})
    settings = stages.Round(
        name="round", pool="", seed="", evaluation="", output=output, rounds=number, downstream_seeds=seeds
    )
    spent = timings.actual(timings.read(output))
    artifacts: dict[str, Artifact] = {}
    for stage in stages.graph(settings):
        of_this_round = number == 1 or stage.job == "ingest" or stage.id.endswith(f"_{number}")
        if of_this_round:
            for artifact in _of_stage(stage, number, directory, spent):
                artifacts[artifact.role] = artifact
    if not any(artifact.manifest or artifact.problem for artifact in artifacts.values()):
        raise DataError(
            f"{directory} is no round: it has neither corpora/pool/{manifests.FILE_NAME} nor any other artifact of "
            "one. Give the `output` of the file that `superbatch round` ran, or round-2 and so on below it"
        )
    return Layout(
        directory=directory, output=output, number=number, artifacts=artifacts, seeds=seeds,
        others=[] if found else _later(directory),
    )  # fmt: skip


def _of_stage(stage: stages.Stage, number: int, directory: str, spent: dict[str, float]) -> list[Artifact]:
    suffix = f" (round {number})"
    title = stage.name.removesuffix(suffix)
    seconds = spent.get(title, spent.get(title + suffix))
    plain = stage.id.removesuffix(f"_{number}") if number > 1 and stage.job != "ingest" else stage.id
    role = _ROLES.get(plain) or storage.as_path(stage.output).name
    path = _lies_at(stage.output, directory)
    if stage.job == "evaluate":
        there = storage.as_path(path).exists()
        return [Artifact(role=role, stage=title, path=path, manifest=None, seconds=seconds, figures=there)]
    if role == "selections":
        return [_artifact(role, title, f"{path}/{selections.DIRECTORY}", seconds)]
    if role != "curated":
        return [_artifact(role, title, path, seconds)]
    control = _lies_at(stage.config["control"], directory, CONTROLS[0])
    return [_artifact(role, title, path, seconds)] + [
        _artifact(name, f"{name.replace('_', ' ')} control", f"{control}/{name}", None) for name in CONTROLS
    ]


def _lies_at(path: str, directory: str, inside: str = ".") -> str:
    """The path, unless it is missing and the artifact lies directly in the round's directory."""
    by_hand = stages.join(directory, storage.as_path(path).name)
    if by_hand == path or storage.as_path(path).exists():
        return path
    return by_hand if storage.as_path(stages.join(by_hand, inside)).exists() else path


def _artifact(role: str, stage: str, path: str, seconds: float | None) -> Artifact:
    try:
        if not manifests.exists(path):
            return Artifact(role=role, stage=stage, path=path, manifest=None, seconds=seconds)
        manifest = manifests.read(path)
    except IntegrityError as error:
        return Artifact(
            role=role,
            stage=stage,
            path=path,
            manifest=None,
            problem=_short(error),
            stored=_stored(path),
            seconds=seconds,
        )
    counts = manifest.counts.model_dump(mode="json")
    return Artifact(role=role, stage=stage, path=path, manifest=manifest, stored=counts, seconds=seconds)


def _short(error: IntegrityError) -> str:
    """In one line: a file that is no manifest at all has a finding for each of its fields."""
    return textwrap.shorten(str(error), _LONGEST, placeholder=" …")


def _stored(path: str) -> dict[str, Any] | None:
    try:
        counts = json.loads(storage.read_bytes(f"{path}/{manifests.FILE_NAME}"))["counts"]
        return counts if isinstance(counts, dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def _names(directory: str) -> list[str]:
    folders = [storage.as_path(directory) / name for name in ("workdirs", "evaluations")]
    return [entry.name for folder in folders if folder.exists() for entry in folder.iterdir()]


def _later(directory: str) -> list[str]:
    root = storage.as_path(directory)
    numbers = [int(match[1]) for entry in root.iterdir() if (match := _ROUND.fullmatch(entry.name))]
    return [stages.join(directory, f"round-{number}") for number in sorted(numbers)]
