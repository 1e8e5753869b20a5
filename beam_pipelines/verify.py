"""`superbatch verify`: opens an artifact again and checks everything its manifest says.

Enters: any artifact's directory, or a tree that holds several. Leaves: a list of findings, each naming the file;
empty if every shard, hash, row count, uid, alignment and parent is as recorded.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from schemas import claim as claims
from schemas import manifest as manifests
from schemas import records, selections, shards, storage
from schemas.errors import SuperbatchError
from schemas.identity import example_uid, image_identity

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Reopen every shard of an artifact: rows, hashes, uids, alignment and parents. Exit code 1 on any finding."""

    path: Annotated[str, tyro.conf.Positional]
    """directory of an artifact (a distill workdir holds two: its model and its selections)"""
    json: bool = False
    """print one JSON object"""


@dataclass(frozen=True)
class Verified:
    """What was checked, and what is wrong."""

    path: str
    kind: str
    fingerprint: str
    shards: int
    rows: int
    findings: list[str]


def run(config: VerifyConfig) -> list[Verified]:
    """Verifies an artifact, and the selections inside it if it is a distill workdir. Whatever is wrong is a finding."""
    paths = [config.path]
    inside = storage.as_path(config.path) / selections.DIRECTORY
    if inside.exists():
        paths.append(str(inside))
    return [_verify_or_say_why_not(path) for path in paths]


def _verify_or_say_why_not(path: str) -> Verified:
    try:
        return verify(path)
    except (SuperbatchError, OSError) as error:
        return Verified(path, "unknown", "", 0, 0, [f"{manifests.FILE_NAME}: {error}"])


def verify(path: str) -> Verified:
    """Verifies one artifact.

    Raises:
      DataError, IntegrityError: the manifest itself is missing or altered.
    """
    manifest = manifests.read(path)
    findings = [
        *_check_files(path, manifest),
        *_check_counts(manifest),
        *_check_parents(manifest),
    ]
    damaged = {finding.split(":")[0] for finding in findings}
    check = {"corpus": _check_examples, "embeddings": _check_embeddings, "selections": _check_selections}
    for shard in manifest.shards:
        if shard.name not in damaged:
            findings += check[manifest.kind](path, manifest, shard)
    return Verified(path, manifest.kind, manifest.fingerprint, len(manifest.shards), manifest.rows, findings)


def _check_files(path: str, manifest: manifests.Manifest) -> Iterator[str]:
    """Compares the directory's files with the manifest's: missing, extra, another size, another hash."""
    present = set(storage.relative_files(path)) - {manifests.FILE_NAME}
    if claims.FILE_NAME in present:
        present -= {claims.FILE_NAME}
        yield from _check_claim(path, manifest)
    if manifest.kind == "model":
        # A distill workdir holds another artifact, verified on its own.
        inside = {name for name in present if name.startswith(f"{selections.DIRECTORY}/")}
        present -= inside
        distilled = any(parent.role == "embeddings" for parent in manifest.parents)
        if distilled and f"{selections.DIRECTORY}/{manifests.FILE_NAME}" not in inside:
            yield f"{selections.DIRECTORY}/{manifests.FILE_NAME}: missing, and this model logged its picks there"
    recorded = [*manifest.shards, *manifest.files]
    for file in recorded:
        if file.name not in present:
            yield f"{file.name}: missing"
            continue
        size, digest = storage.hash_file(storage.as_path(path) / file.name)
        if size != file.bytes:
            yield f"{file.name}: {size} bytes, recorded {file.bytes}"
        elif digest != file.sha256:
            yield f"{file.name}: sha256 {digest}, recorded {file.sha256}"
    for name in sorted(present - {file.name for file in recorded}):
        yield f"{name}: not in the manifest"


def _check_claim(path: str, manifest: manifests.Manifest) -> Iterator[str]:
    """Compares the claim of a published version with its manifest."""
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
    if manifest.kind == "corpus" and manifest.counts.kept != manifest.rows:
        yield f"{manifests.FILE_NAME}: counts say {manifest.counts.kept} rows were kept, shards have {manifest.rows}"
    if manifest.kind == "embeddings" and manifest.counts.read != manifest.rows:
        yield f"{manifests.FILE_NAME}: counts say {manifest.counts.read} rows were read, shards have {manifest.rows}"


def _check_parents(manifest: manifests.Manifest) -> Iterator[str]:
    """Compares the parents that can be reached; one that has moved away is no finding."""
    for parent in manifest.parents:
        if not manifests.exists(parent.path):
            log.info("%s %s is not there any more: not compared", parent.role, parent.path)
            continue
        try:
            found = manifests.read(parent.path).fingerprint
        except SuperbatchError as error:
            yield f"parent {parent.role}: {error}"
            continue
        if found != parent.fingerprint:
            yield f"parent {parent.role}: {parent.path} is {found}, recorded {parent.fingerprint}"


def _check_examples(path: str, manifest: manifests.Manifest, shard: manifests.Shard) -> Iterator[str]:
    """Recomputes the uid and image_id of every row."""
    try:
        for row, record in enumerate(shards.read_all(storage.as_path(path) / shard.name, shard.rows)):
            example = records.decode_example(record)
            if example.uid != example_uid(example.image, example.text):
                yield f"{shard.name}: row {row} has uid {example.uid}, its image and text give another"
            elif example.image_id != image_identity(example.image):
                yield f"{shard.name}: row {row} has image_id {example.image_id}, its image gives another"
    except SuperbatchError as error:
        yield f"{shard.name}: {error}"


def _check_embeddings(path: str, manifest: manifests.Manifest, shard: manifests.Shard) -> Iterator[str]:
    """Checks every row's vectors, and its uid against the corpus's if that can be reached."""
    info = manifest.embeddings
    if info is None:
        yield f"{manifests.FILE_NAME}: no `embeddings` section"
        return
    corpus = manifest.parent("corpus").path
    try:
        rows = [records.decode_embedding(r) for r in shards.read_all(storage.as_path(path) / shard.name, shard.rows)]
        records.unpack_vectors([row.image_embedding for row in rows], info.dtype, info.image_width)
        records.unpack_vectors([row.text_embedding for row in rows], info.dtype, info.text_width)
        if not manifests.exists(corpus):
            return
        theirs = shards.read_all(storage.as_path(corpus) / shard.name, shard.rows)
        for row, (embedding, record) in enumerate(zip(rows, theirs, strict=True)):
            uid = records.record_uid(record)
            if embedding.uid != uid:
                yield f"{shard.name}: row {row} is {embedding.uid}, and {uid} in the corpus"
                return
    except SuperbatchError as error:
        yield f"{shard.name}: {error}"


def _check_selections(path: str, manifest: manifests.Manifest, shard: manifests.Shard) -> Iterator[str]:
    """Counts a part's rows, and compares the uid of every pick with the corpus's if that can be reached."""
    try:
        with (storage.as_path(path) / shard.name).open("rb") as file:
            part = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        yield f"{shard.name}: not readable as Parquet: {error}"
        return
    if part.num_rows != shard.rows:
        yield f"{shard.name}: {part.num_rows} rows, recorded {shard.rows}"
    corpus = manifest.parent("corpus").path
    if "uid" not in part.column_names or not manifests.exists(corpus):
        return
    try:
        reader = shards.open_dataset(corpus, manifests.read(corpus, kind="corpus"))
        rows = part["row"].to_pylist()
        for row, uid, record in zip(rows, part["uid"].to_pylist(), reader.read(rows), strict=True):
            if records.record_uid(record) != uid:
                yield f"{shard.name}: row {row} was picked as {uid}, and is {records.record_uid(record)} in the corpus"
                return
    except SuperbatchError as error:
        yield f"{shard.name}: {error}"
