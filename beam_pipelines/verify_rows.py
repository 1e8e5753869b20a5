"""What `superbatch verify` checks inside a shard whose file is the recorded one: its rows.

Enters: a shard of an artifact. Leaves: findings, each naming the file. Rows of a corpus are who their uids say they
are, embeddings stand in the order of their corpus, and picks are of rows that the corpus has. Checked deeply, every
image is decoded whole as well, and every vector has unit length.
"""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.errors import DataError, SuperbatchError
from schemas.identity import example_uid, image_identity, normalise_text

_UNIT_TOLERANCE = 1e-2  # 16 bits move a vector of width 768 off the unit sphere by less


def check_rows(path: str, manifest: manifests.Manifest, shard: manifests.Shard, *, deep: bool) -> Iterator[str]:
    """Checks the rows of a shard. What cannot be read is a finding too.

    Args:
      path: the artifact's directory.
      manifest: the artifact's.
      shard: one of its shards.
      deep: decode every image, and measure every vector.
    """
    checks: dict[manifests.Kind, Callable[..., Iterator[str]]] = {
        "corpus": _check_examples,
        "embeddings": _check_embeddings,
        "selections": _check_selections,
    }
    if manifest.kind not in checks:
        return
    try:
        yield from checks[manifest.kind](path, manifest, shard, deep)
    except (SuperbatchError, OSError) as error:
        yield f"{shard.name}: {error}"


def reach(parent: manifests.Parent) -> manifests.Manifest | None:
    """Reads a parent's manifest; None where it has moved away, or lies in a bucket that cannot be used from here.

    Raises:
      IntegrityError: it was altered.
    """
    try:
        return manifests.read(parent.path) if manifests.exists(parent.path) else None
    except (DataError, OSError):
        return None


def check_opens(path: str, manifest: manifests.Manifest, shard: manifests.Shard) -> Iterator[str]:
    """Opens a shard of ArrayRecord, and compares its number of rows."""
    if manifest.kind in ("corpus", "embeddings"):
        try:
            shards.ShardReader(storage.as_path(path) / shard.name, shard.rows).close()
        except (SuperbatchError, OSError) as error:
            yield f"{shard.name}: {error}"


def _check_examples(path: str, manifest: manifests.Manifest, shard: manifests.Shard, deep: bool) -> Iterator[str]:
    """Recomputes the uid and image_id of every row."""
    for row, record in enumerate(shards.read_all(storage.as_path(path) / shard.name, shard.rows)):
        if wrong := check_example(records.decode_example(record), deep):
            yield f"{shard.name}: row {row} {wrong}"


def check_example(example: records.Example, deep: bool) -> str | None:
    """Recomputes the uid and image_id of a row; says what is wrong with it, None if nothing is."""
    if example.uid != example_uid(example.image, example.text):
        return f"has uid {example.uid}, its image and text give another"
    if example.image_id != image_identity(example.image):
        return f"has image_id {example.image_id}, its image gives another"
    if deep and (problem := _problem(example)):
        return f"({example.uid}) {problem}"
    return None


def _problem(example: records.Example) -> str | None:
    """What is wrong with a pair whose uid is right; None if nothing."""
    if example.text != normalise_text(example.text):
        return "has a text that is not in Unicode NFC"
    try:
        with Image.open(io.BytesIO(example.image), formats=("JPEG", "PNG")) as opened:
            if opened.size != (example.width, example.height):
                return f"says {example.width} × {example.height}, its image is {opened.width} × {opened.height}"
            opened.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"has an image that cannot be decoded: {error}"
    return None


def _check_embeddings(path: str, manifest: manifests.Manifest, shard: manifests.Shard, deep: bool) -> Iterator[str]:
    """Checks every row's vectors, and its uid against the corpus's if that can be reached."""
    info = manifest.embeddings
    if info is None:
        yield f"{manifests.FILE_NAME}: no `embeddings` section"
        return
    rows = [records.decode_embedding(r) for r in shards.read_all(storage.as_path(path) / shard.name, shard.rows)]
    for side, width in (("image", info.image_width), ("text", info.text_width)):
        stored = [getattr(row, f"{side}_embedding") for row in rows]
        records.unpack_vectors(stored, info.dtype, width)
        if deep:
            yield from _check_lengths(shard, side, rows, records.as_stored(stored, info.dtype, width))
    corpus = manifest.parent("corpus")
    if reach(corpus) is None:
        return
    theirs = shards.read_all(storage.as_path(corpus.path) / shard.name, shard.rows)
    for row, (embedding, record) in enumerate(zip(rows, theirs, strict=True)):
        uid = records.record_uid(record)
        if embedding.uid != uid:
            yield f"{shard.name}: row {row} is {embedding.uid}, and {uid} in the corpus"
            return


def _check_lengths(
    shard: manifests.Shard, side: str, rows: list[records.Embedding], vectors: np.ndarray
) -> Iterator[str]:
    """Vectors are of unit length as they are stored, those of invalid rows zero."""
    lengths = np.linalg.norm(vectors, axis=1)
    for row, (embedding, length) in enumerate(zip(rows, lengths, strict=True)):
        if not abs(length - embedding.valid) <= _UNIT_TOLERANCE:  # NaN too
            what = "valid" if embedding.valid else "invalid"
            yield f"{shard.name}: row {row} ({embedding.uid}) is {what}, and its {side} vector has length {length:.4g}"


def _check_selections(path: str, manifest: manifests.Manifest, shard: manifests.Shard, deep: bool) -> Iterator[str]:
    """Counts a part's rows, and compares the uid of every pick with the corpus's if that can be reached."""
    try:
        with (storage.as_path(path) / shard.name).open("rb") as file:
            part = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        yield f"{shard.name}: not readable as Parquet: {error}"
        return
    if part.num_rows != shard.rows:
        yield f"{shard.name}: {part.num_rows} rows, recorded {shard.rows}"
    corpus = manifest.parent("corpus")
    reached = reach(corpus) if "uid" in part.column_names else None
    if reached is None:
        return
    reader = shards.open_dataset(corpus.path, reached)
    rows = part["row"].to_pylist()
    for row, uid, record in zip(rows, part["uid"].to_pylist(), reader.read(rows), strict=True):
        if records.record_uid(record) != uid:
            yield f"{shard.name}: row {row} was picked as {uid}, and is {records.record_uid(record)} in the corpus"
            return
