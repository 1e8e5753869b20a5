"""`manifest.json`: the last file written into an artifact's directory, and the only proof that it is complete.

A directory without a manifest does not exist for any reader. The manifest names every file with its size and
sha256, counts what was read and what became of it, and points at the artifacts this one was made from.

* The **fingerprint** says *what* the artifact is: sha256 of the canonical JSON of kind, schema version, shards
  (rows and sha256), the parents' fingerprints, the config fields marked as content and, for a model, the
  identity of its parameters. Paths, names, clocks, hosts and workers stay out: two runs of a job on the same
  input, library versions and hardware type give the same fingerprint.
* The **checksum** says that the manifest itself is intact: sha256 of its own canonical JSON without that field.
"""

import hashlib
import json
import re
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas import access, job_config, storage
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.identity import canonical_json
from schemas.rejections import Reason

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
_NEVER_LISTED = (FILE_NAME, "_claim.json")  # the latter comes with a publication
Kind = Literal["corpus", "model", "embeddings", "selections", "export"]
_RECORDED_LIBRARIES = (
    "superbatch", "apache-beam", "array-record", "flax", "jax", "numpy", "pillow", "pyarrow", "sentencepiece"
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parent(_Strict):
    """An input of the job: its role there, where it was read, and what it was."""

    role: str
    path: str
    fingerprint: str


class Counts(_Strict):
    """What became of every row that was read: `read = kept + duplicates + Σ rejected`, checked."""

    read: int = Field(ge=0)
    kept: int = Field(ge=0)
    duplicates: int = Field(default=0, ge=0)
    rejected: dict[Reason, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.kept + self.duplicates + sum(self.rejected.values())
        if total != self.read:
            raise ValueError(
                f"counts do not add up: read {self.read} ≠ kept {self.kept} + duplicates {self.duplicates} "
                f"+ rejected {sum(self.rejected.values())}"
            )
        return self

    @property
    def found(self) -> int:
        """Read rows, without those of pairs that had never been downloaded."""
        return self.read - self.rejected.get(Reason.NOT_DOWNLOADED, 0)

    @property
    def rejected_fraction(self) -> float:
        """Rejected rows over those that were found; 0 if none was."""
        return (self.found - self.kept - self.duplicates) / self.found if self.found else 0.0


class File(_Strict):
    """A file of the artifact that is not a shard."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str


class Shard(File):
    """A file that holds rows; shards are listed in row order."""

    rows: int = Field(ge=0)


class DatasetInfo(_Strict):
    """How TFDS names the directory's rows."""

    name: str
    split: str


class ModelInfo(_Strict):
    """Which function a model is: sha256 of its parameters, its preprocessing and its tokenizer file."""

    parameters: str
    preprocessing: str
    tokenizer: str

    @property
    def fingerprint(self) -> str:
        """The reference's fingerprint, recorded by embeddings and compared by distill."""
        return hashlib.sha256(canonical_json(self.model_dump())).hexdigest()


class EmbeddingInfo(_Strict):
    """How to read embedding rows, and what the loss needs beside them."""

    dtype: Literal["float16", "bfloat16", "float32"]
    image_width: int = Field(gt=0)
    text_width: int = Field(gt=0)
    scale: float
    bias: float
    decoder: str
    reference: ModelInfo
    tokenizer_file: str


class Manifest(_Strict):
    """The contents of `manifest.json`; see the module's docstring."""

    kind: Kind
    schema_version: int = SCHEMA_VERSION
    name: str
    version: str
    created: str
    libraries: dict[str, str]
    parents: list[Parent]
    config: dict[str, Any]
    content_fields: list[str]
    counts: Counts
    shards: list[Shard]
    files: list[File]
    dataset: DatasetInfo | None = None
    model: ModelInfo | None = None
    embeddings: EmbeddingInfo | None = None
    fingerprint: str
    checksum: str

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if unknown := sorted(set(self.content_fields) - self.config.keys()):
            raise ValueError(f"content_fields names {unknown[0]!r}, which config lacks")
        names = [file.name for file in (*self.shards, *self.files)]
        for name in names:
            if not set(name.split("/")).isdisjoint(("", ".", "..")) or name in _NEVER_LISTED:
                raise ValueError(f"{name!r} cannot be one of an artifact's files")
        if twice := sorted(name for name, times in Counter(names).items() if times > 1):
            raise ValueError(f"{twice[0]!r} is listed twice")
        return self

    @property
    def rows(self) -> int:
        """The number of rows over all shards."""
        return sum(shard.rows for shard in self.shards)

    def parent(self, role: str) -> Parent:
        """Returns the parent with this role.

        Raises:
          IntegrityError: if the manifest records none.
        """
        for parent in self.parents:
            if parent.role == role:
                return parent
        roles = ", ".join(p.role for p in self.parents) or "none"
        raise IntegrityError(f"{self.kind} {self.name} records no parent with role {role!r} (it has: {roles})")

    def compute_fingerprint(self) -> str:
        """Computes the fingerprint from the manifest's own fields."""
        identity: dict[str, Any] = {
            "kind": self.kind,
            "schema_version": self.schema_version,
            "shards": [[shard.rows, shard.sha256] for shard in self.shards],
            "parents": [parent.fingerprint for parent in self.parents],
            "config": {name: self.config[name] for name in self.content_fields},
        }
        if self.model is not None:
            identity["model"] = self.model.model_dump()
        return hashlib.sha256(canonical_json(identity)).hexdigest()

    def compute_checksum(self) -> str:
        """Computes the checksum over every field but the checksum."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude={"checksum"}))).hexdigest()


def make(
    *,
    kind: Kind,
    name: str,
    version: str,
    config: Any,
    parents: list[Parent],
    counts: Counts,
    shards: list[Shard],
    files: list[File],
    dataset: DatasetInfo | None = None,
    model: ModelInfo | None = None,
    embeddings: EmbeddingInfo | None = None,
) -> Manifest:
    """Builds a manifest with its fingerprint and checksum filled in.

    Args:
      config: the job's dataclass; fields declared with `job_config.content(...)` enter the fingerprint.
    """
    draft = Manifest(
        kind=kind, name=name, version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries=_library_versions(),
        parents=parents,
        config=job_config.resolved(config), content_fields=job_config.content_fields(config),
        counts=counts, shards=shards, files=files,
        dataset=dataset, model=model, embeddings=embeddings,
        fingerprint="", checksum="",
    )  # fmt: skip
    marked = draft.model_copy(update={"fingerprint": draft.compute_fingerprint()})
    return marked.model_copy(update={"checksum": marked.compute_checksum()})


def write(directory: str, manifest: Manifest) -> Manifest:
    """Completes an artifact: writes `manifest.json`, only if absent.

    Returns:
      The manifest that now stands there. A retry of the same job finds its own manifest and adopts it.

    Raises:
      IntegrityError: another artifact was completed in this directory meanwhile.
    """
    path = storage.as_path(directory) / FILE_NAME
    if storage.write_once(path, serialise(manifest)):
        return manifest
    existing = read(directory)
    if existing.fingerprint != manifest.fingerprint:
        raise IntegrityError(
            f"{directory} already holds {existing.kind} {existing.fingerprint[:12]}, and this job made "
            f"{manifest.fingerprint[:12]}: choose another output directory"
        )
    return existing


def serialise(manifest: Manifest) -> bytes:
    """Returns the only bytes that a manifest's file may have."""
    return json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"


def exists(directory: str) -> bool:
    """Says whether the directory holds a complete artifact."""
    access.check(directory)
    return (storage.as_path(directory) / FILE_NAME).exists()


def read(directory: str, kind: Kind | None = None) -> Manifest:
    """Reads and checks a manifest: its form, its checksum and its fingerprint.

    Args:
      kind: what the caller needs the artifact to be; None accepts any.

    Raises:
      DataError: there is none, so the artifact does not exist (or is not complete yet).
      IntegrityError: it was altered, or it is of another kind than the caller needs.
    """
    path = storage.as_path(directory) / FILE_NAME
    try:
        stored = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        what = kind or f"artifact ({', '.join(get_args(Kind))})"
        raise DataError(
            f"{directory} is not a complete {what}: it has no {FILE_NAME}, which every job writes last. "
            "Check the path, or run the job that makes it again: finished parts are kept"
        ) from None
    try:
        manifest = Manifest.model_validate_json(stored)
    except (ValidationError, UnicodeDecodeError, ValueError) as error:
        raise IntegrityError(f"{path} is not a manifest of schema version {SCHEMA_VERSION}: {error}") from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise IntegrityError(
            f"{path} has schema version {manifest.schema_version}; this release reads {SCHEMA_VERSION}"
        )
    # The checksum first: the fingerprint's parts may be missing from an altered manifest.
    for field, compute in (("checksum", manifest.compute_checksum), ("fingerprint", manifest.compute_fingerprint)):
        recorded, computed = getattr(manifest, field), compute()
        if recorded != computed:
            raise IntegrityError(f"{path} was altered: it records {field} {recorded}, its content gives {computed}")
    if kind is not None and manifest.kind != kind:
        raise IntegrityError(f"{directory} holds {manifest.kind}, and {kind} is needed here")
    return manifest


def describe_files(directory: str, names: list[str]) -> list[File]:
    """Hashes files of an artifact for its manifest, in the order given."""
    root = storage.as_path(directory)
    described = []
    for name in names:
        size, digest = storage.hash_file(root / name)
        described.append(File(name=name, bytes=size, sha256=digest))
    return described


def as_parent(role: str, path: str, manifest: Manifest) -> Parent:
    """Returns the record of an input for the manifest of what is made from it."""
    return Parent(role=role, path=storage.absolute(path), fingerprint=manifest.fingerprint)


def check_dataset_name(field: str, value: str) -> None:
    """Checks the name of a dataset or a split, which becomes part of TFDS file names.

    Raises:
      ConfigError: naming the field and the value.
    """
    if not value.replace("_", "").isalnum() or not value.isascii() or value[0].isdigit():
        raise ConfigError(f"{field} is {value!r}; it must be letters, digits and _, not starting with a digit")


def check_version(version: str) -> None:
    """Checks a version's form, which is TFDS's: three numbers.

    Raises:
      ConfigError: it has another.
    """
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version):
        raise ConfigError(f"version is {version!r}; it must be three numbers such as 1.0.0")


def _library_versions() -> dict[str, str]:
    versions = {}
    for library in _RECORDED_LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
