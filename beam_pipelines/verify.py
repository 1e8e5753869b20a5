"""`superbatch verify`: opens an artifact again and checks everything its manifest says.

Enters: any artifact's directory, local or in a bucket. Leaves: a list of findings, each naming the file; empty if all
is as recorded. How much is read is a choice:

    --shallow   the manifest, names and sizes of all files, every shard opens with its number of rows
    (default)   also: every file's sha256, every uid, alignment with the corpus
    --deep      also: every image decoded whole, every vector measured

Exports are opened in the formats that they are in (`beam_pipelines/verify_exports.py`).
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from beam_pipelines import verify_exports
from beam_pipelines.verify_rows import check_opens, check_rows, reach
from schemas import access, selections, storage
from schemas import claim as claims
from schemas import manifest as manifests
from schemas.errors import ConfigError, IntegrityError, SuperbatchError
from schemas.rejections import printable

Depth = Literal["shallow", "full", "deep"]
_UNKNOWN = "unknown"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Reopen every shard of an artifact: rows, hashes, uids, alignment and parents. Exit code 1 on any finding."""

    path: Annotated[str, tyro.conf.Positional]
    """directory of an artifact (a distill workdir holds two: its model and its selections)"""
    shallow: bool = False
    """read no file whole: names, sizes and numbers of rows only"""
    deep: bool = False
    """also decode every image and measure every vector"""
    workers: int = 4
    """files checked at a time"""
    json: bool = False
    """print one JSON object"""

    def __post_init__(self) -> None:
        if self.shallow and self.deep:
            raise ConfigError("shallow and deep are both given: choose one, or neither for hashes and uids")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; it must be at least 1")

    @property
    def depth(self) -> Depth:
        """How much is read."""
        return "shallow" if self.shallow else "deep" if self.deep else "full"


@dataclass(frozen=True)
class Verified:
    """What was checked, and what is wrong."""

    path: str
    kind: str
    name: str
    version: str
    fingerprint: str
    depth: Depth
    shards: int
    rows: int
    bytes: int
    findings: list[str]


def run(config: VerifyConfig) -> list[Verified]:
    """Verifies an artifact, and the selections inside it if it is a distill workdir. Whatever is wrong is a finding."""
    found = [_verify_or_say_why_not(config.path, config)]
    inside = str(storage.as_path(config.path) / selections.DIRECTORY)
    if found[0].kind in ("model", _UNKNOWN) and _may_be_there(inside):
        found.append(_verify_or_say_why_not(inside, config))
    return found


def table(results: list[Verified]) -> str:
    """Lays results out for a terminal: a line for each artifact, and what is wrong below it."""
    titles = ("kind", "name", "version", "shards", "rows", "bytes", "fingerprint", "checked", "result")
    lines = [
        (r.kind, printable(r.name), printable(r.version), f"{r.shards:,}", f"{r.rows:,}", f"{r.bytes:,}",
         r.fingerprint[:12], r.depth, "FAILED" if r.findings else "ok")
        for r in results
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    printed = ["  ".join(f"{title:<{width}}" for title, width in zip(titles, widths, strict=True)).rstrip()]
    for result, line in zip(results, lines, strict=True):
        printed.append("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
        printed += [f"  {printable(f'{result.path}: {finding}')}" for finding in result.findings]
    return "\n".join(printed)


def _verify_or_say_why_not(path: str, config: VerifyConfig) -> Verified:
    try:
        return verify(path, config.depth, config.workers)
    except (SuperbatchError, OSError) as error:
        return Verified(
            path, _UNKNOWN, "", "", "", config.depth, 0, 0, 0, [f"{manifests.FILE_NAME}: {_one_line(error)}"]
        )


def verify(path: str, depth: Depth = "full", workers: int = 4) -> Verified:
    """Verifies one artifact.

    Raises:
      DataError, IntegrityError: the manifest itself is missing or altered.
    """
    manifest = manifests.read(path)
    recorded = {file.name: file for file in [*manifest.shards, *manifest.files]}
    present = _list_files(path, manifest)
    findings = [*_check_manifest(path, manifest), *_check_claim(path, manifest)]
    findings += [*_check_counts(manifest), *_check_parents(manifest)]
    findings += [f"{name}: missing" for name in recorded if name not in present]

    def check(file: manifests.File) -> list[str]:
        return list(_check_file(path, manifest, file, depth))

    with ThreadPoolExecutor(workers, "verify") as threads:
        for found in threads.map(check, [file for file in recorded.values() if file.name in present]):
            findings += found
    findings += [f"{name}: not in the manifest" for name in sorted(present - recorded.keys())]
    size = sum(file.bytes for file in recorded.values())
    return Verified(
        path, manifest.kind, manifest.name, manifest.version, manifest.fingerprint, depth, len(manifest.shards),
        manifest.rows, size, findings,
    )  # fmt: skip


def _list_files(path: str, manifest: manifests.Manifest) -> set[str]:
    """The files of an artifact's directory but for its manifest, and for the artifact that a distill workdir holds."""
    found = set(storage.relative_files(path)) - {manifests.FILE_NAME, claims.FILE_NAME}
    if manifest.kind != "model":
        return found
    return {name for name in found if not name.startswith(f"{selections.DIRECTORY}/")}


def _check_manifest(path: str, manifest: manifests.Manifest) -> Iterator[str]:
    """Its content was checked when it was read; this is about bytes that do not change it, as white space."""
    if storage.read_bytes(storage.as_path(path) / manifests.FILE_NAME) != manifests.serialise(manifest):
        yield f"{manifests.FILE_NAME}: was altered: its bytes are not those that its own content gives"
    inside = f"{selections.DIRECTORY}/{manifests.FILE_NAME}"
    distilled = manifest.kind == "model" and any(parent.role == "embeddings" for parent in manifest.parents)
    if distilled and not (storage.as_path(path) / inside).exists():
        yield f"{inside}: missing, and this model logged its picks there"


def _check_file(path: str, manifest: manifests.Manifest, file: manifests.File, depth: Depth) -> Iterator[str]:
    """Compares a file with its record; and, if it is the recorded one, what is in it."""
    where = storage.as_path(path) / file.name
    if depth == "shallow":
        size, digest = where.stat().length, file.sha256
    else:
        size, digest = storage.hash_file(where)
    if size != file.bytes:
        yield f"{file.name}: {size} bytes, recorded {file.bytes}"
    elif digest != file.sha256:
        others = [other.name for other in [*manifest.shards, *manifest.files] if other.sha256 == digest]
        of_other = f" (that of {others[0]})" if others else ""
        yield f"{file.name}: sha256 {digest}{of_other}, recorded {file.sha256}"
    elif isinstance(file, manifests.Shard) and manifest.kind == "export":
        yield from verify_exports.check(path, manifest, file, depth)
    elif isinstance(file, manifests.Shard):
        if depth == "shallow":
            yield from check_opens(path, manifest, file)
        else:
            yield from check_rows(path, manifest, file, deep=depth == "deep")


def _check_claim(path: str, manifest: manifests.Manifest) -> Iterator[str]:
    """Compares the claim of a published version with its manifest; what was not published has none."""
    if not (storage.as_path(path) / claims.FILE_NAME).exists():
        return
    try:
        held = claims.read_claim(path)
    except SuperbatchError as error:
        yield f"{claims.FILE_NAME}: {error}"
        return
    for field in ("fingerprint", "name", "version"):
        theirs, ours = getattr(held, field), getattr(manifest, field)
        if theirs != ours:
            yield f"{claims.FILE_NAME}: claims {field} {theirs}, and the manifest has {ours}"


def _check_counts(manifest: manifests.Manifest) -> Iterator[str]:
    if manifest.kind in ("corpus", "export") and manifest.counts.kept != manifest.rows:
        yield f"{manifests.FILE_NAME}: counts say {manifest.counts.kept} rows were kept, shards have {manifest.rows}"
    if manifest.kind == "embeddings" and manifest.counts.read != manifest.rows:
        yield f"{manifests.FILE_NAME}: counts say {manifest.counts.read} rows were read, shards have {manifest.rows}"


def _check_parents(manifest: manifests.Manifest) -> Iterator[str]:
    """Compares the parents that can be reached; one that has moved away is no finding."""
    for parent in manifest.parents:
        try:
            found = reach(parent)
        except IntegrityError as error:
            yield f"parent {parent.role}: {error}"
            continue
        if found is None:
            log.info("%s %s cannot be reached: not compared", parent.role, parent.path)
        elif found.fingerprint != parent.fingerprint:
            yield f"parent {parent.role}: {parent.path} is {found.fingerprint}, recorded {parent.fingerprint}"


def _may_be_there(path: str) -> bool:
    """Whether a path exists; no, in a bucket that cannot be used, which has been said then."""
    try:
        access.check(path)
        return storage.as_path(path).exists()
    except (SuperbatchError, OSError):
        return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
