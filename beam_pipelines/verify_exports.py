"""What `superbatch verify` checks inside a data file of an export whose file is the recorded one: its rows.

Enters: a file of an export, and how deeply it is to be checked. Leaves: findings, each naming file and row. Shallowly,
a file opens and has its number of rows. Else the uids as well: those of TFRecord files and tars are recomputed from
image and text, which tables and `uids.npy` do not have; and all are the dataset's, in its order, where the dataset can
be reached. Deeply, images are decoded whole.
"""

import itertools
import json
import re
import tarfile
import tokenize
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines import tfrecord
from beam_pipelines.verify_rows import check_example
from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.errors import IntegrityError, SuperbatchError
from schemas.identity import UID_HEX_DIGITS
from schemas.rejections import printable

_UID = re.compile(f"[0-9a-f]{{{UID_HEX_DIGITS}}}")
_UIDS_TYPE = np.dtype("<u8,<u8")
_MEMBERS = (["jpg", "txt", "json"], ["png", "txt", "json"])
# A row: its uid if it has one, and what is wrong with it, if anything is.
_Row = tuple[str | None, str | None]


def check(
    path: str, manifest: manifests.Manifest, shard: manifests.Shard, depth: Literal["shallow", "full", "deep"]
) -> Iterator[str]:
    """Checks a data file. What cannot be read is a finding too.

    Args:
      path: the export's directory.
      manifest: the export's.
      shard: one of its files of rows.
      depth: how much is read.
    """
    counts: dict[str, Callable[[BinaryIO, manifests.Shard], int]] = {
        "tfrecord": _count_tfrecord, "webdataset": _count_tar, "uids": _count_uids, "parquet": _count_parquet,
    }  # fmt: skip
    kind = str(manifest.config.get("format"))
    if kind not in counts:
        yield f"{shard.name}: its format is {kind!r} by {manifests.FILE_NAME}; known are {', '.join(counts)}"
        return
    try:
        with storage.as_path(path).joinpath(shard.name).open("rb") as opened:
            file = cast(BinaryIO, opened)
            if (found := counts[kind](file, shard)) != shard.rows:
                yield f"{shard.name}: {found} rows, recorded {shard.rows}"
            elif depth != "shallow":
                file.seek(0)
                for finding in _check_rows(file, kind, manifest, shard, depth == "deep"):
                    yield f"{shard.name}: {printable(finding)}"
    except (SuperbatchError, OSError) as error:
        yield f"{shard.name}: {printable(str(error))}"
    except (EOFError, ValueError, tarfile.TarError, pa.ArrowException) as error:
        yield f"{shard.name}: not readable as {kind}: {printable(str(error))}"


def _check_rows(
    file: BinaryIO, kind: str, manifest: manifests.Manifest, shard: manifests.Shard, deep: bool
) -> Iterator[str]:
    index = manifest.shards.index(shard)
    dataset = _reach_dataset(manifest)
    if kind == "uids":
        yield from _check_uids(file, shard, dataset)
        return
    first = sum(before.rows for before in manifest.shards[:index])
    rows = {
        "tfrecord": lambda: _tfrecord_rows(file, shard, deep),
        "webdataset": lambda: _tar_rows(file, deep),
        "parquet": lambda: _parquet_rows(file, first),
    }[kind]()
    if dataset is not None:
        yield from _compare_shards(manifest, dataset[1], index)
    theirs = None if dataset is None else _uids_of(dataset, index)
    for row, (uid, wrong) in enumerate(rows):
        due = None if theirs is None else next(theirs, "none")
        if wrong is not None:
            yield f"row {row} {wrong}"
        elif due is not None and uid != due:
            yield f"row {row} is {uid}, and {due} in the dataset"
            theirs = None  # what follows may be one row further


# --- The dataset ------------------------------------------------------------------------------------------------------


def _reach_dataset(manifest: manifests.Manifest) -> tuple[str, list[manifests.Shard]] | None:
    """Where the exported dataset lies, and its shards.

    None if it has moved away, which is no finding, or is another now, which is one of the export's as a whole.
    """
    parent = manifest.parent("dataset")
    try:
        found = manifests.read(parent.path, kind="corpus")
    except (SuperbatchError, OSError):
        return None
    return (parent.path, found.shards) if found.fingerprint == parent.fingerprint else None


def _compare_shards(manifest: manifests.Manifest, theirs: list[manifests.Shard], index: int) -> Iterator[str]:
    """Compares a shard's number of rows with the dataset's; and, at the last one, how many there are."""
    rows = manifest.shards[index].rows
    if index < len(theirs) and rows != theirs[index].rows:
        yield f"{rows} rows, and {theirs[index].rows} in the dataset's {theirs[index].name}"
    if index == len(manifest.shards) - 1 and len(theirs) != len(manifest.shards):
        yield f"is the last of {len(manifest.shards)} shards, and the dataset has {len(theirs)}"


def _uids_of(dataset: tuple[str, list[manifests.Shard]], index: int) -> Iterator[str]:
    directory, theirs = dataset
    if index < len(theirs):
        path = storage.as_path(directory) / theirs[index].name
        yield from map(records.record_uid, shards.read_all(path, theirs[index].rows))


# --- TFRecord ---------------------------------------------------------------------------------------------------------


def _count_tfrecord(file: BinaryIO, shard: manifests.Shard) -> int:
    return tfrecord.count(file, shard.bytes)


def _tfrecord_rows(file: BinaryIO, shard: manifests.Shard, deep: bool) -> Iterator[_Row]:
    for _, record in tfrecord.read(cast(Any, file), shard.rows, shard.bytes):
        if isinstance(record, str):
            yield None, f"cannot be read: {record}"
            continue
        try:
            example = records.decode_example(record)
        except IntegrityError as error:
            yield None, f"cannot be read: {error}"
        else:
            yield example.uid, check_example(example, deep)


# --- Tars -------------------------------------------------------------------------------------------------------------


def _count_tar(file: BinaryIO, shard: manifests.Shard) -> int:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        return sum(1 for _ in _samples(tar))


def _tar_rows(file: BinaryIO, deep: bool) -> Iterator[_Row]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for uid, members in _samples(tar):
            yield uid, _check_sample(tar, uid, list(members), deep)


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, Iterator[tarfile.TarInfo]]]:
    """Members that follow each other and share their name up to the first dot are a sample."""
    return itertools.groupby(_members(tar), key=lambda member: member.name.partition(".")[0])


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        yield member


def _check_sample(tar: tarfile.TarFile, uid: str, members: list[tarfile.TarInfo], deep: bool) -> str | None:
    names = [member.name.partition(".")[2] for member in members]
    if names not in _MEMBERS:
        return f"({uid[:80]}) has members {', '.join(names)[:80]}; jpg or png, txt and json are due"
    contents = []
    for member in members:
        # Of a sparse file a few bytes on disk say how large it is in memory.
        content = None if member.issparse() or not member.isreg() else tar.extractfile(member)
        if content is None:
            return f"has a member {member.name} that is no plain file"
        contents.append(content.read())
    image, text, described = contents
    if names[0] != ("png" if image.startswith(b"\x89PNG") else "jpg"):
        return f"({uid}) has an image of another format than {members[0].name} says"
    try:
        known = json.loads(described)
        example = records.Example(
            image=image, text=text.decode(), uid=uid,
            **{name: known[name] for name in ("image_id", "language", "url", "source", "width", "height")},
        )  # fmt: skip
        named = known["uid"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"({uid}) has a text or a description that cannot be read: {error!r}"
    if named != uid:
        return f"is {uid} by its members' names and {named} in its description"
    return check_example(example, deep)


# --- Tables -----------------------------------------------------------------------------------------------------------


def _count_parquet(file: BinaryIO, shard: manifests.Shard) -> int:
    return pq.ParquetFile(file).metadata.num_rows


def _parquet_rows(file: BinaryIO, first: int) -> Iterator[_Row]:
    table = pq.ParquetFile(file)
    wanted = ["row", "row_in_shard", "uid"]
    if missing := [name for name in wanted if name not in table.schema_arrow.names]:
        raise IntegrityError(f"it has no column {' and no column '.join(missing)}")
    here = 0
    for batch in table.iter_batches(columns=wanted):
        for row, row_in_shard, uid in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
            if (row, row_in_shard) != (first + here, here):  # and so are those that follow
                raise IntegrityError(
                    f"row {here} says that it is row {row} and row_in_shard {row_in_shard}; {first + here} and {here} "
                    "are due"
                )
            if not isinstance(uid, str) or not _UID.fullmatch(uid):
                yield None, f"has uid {uid!r}; it must be {UID_HEX_DIGITS} hex digits"
            else:
                yield uid, None
            here += 1


# --- uids.npy ---------------------------------------------------------------------------------------------------------


def _count_uids(file: BinaryIO, shard: manifests.Shard) -> int:
    """Reads the header alone; raises IntegrityError if it is no array of uids, or of another length than the file."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise IntegrityError(f"it is an array of NumPy's format {version}; (1, 0) is due")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError) as error:  # NumPy reads it as Python
        raise IntegrityError(f"its header cannot be read: {error}") from None
    if dtype != _UIDS_TYPE or len(shape) != 1:
        raise IntegrityError(f"it is an array {list(shape)} of {dtype}; one row of {_UIDS_TYPE} is due")
    if (left := shard.bytes - file.tell()) != shape[0] * dtype.itemsize:
        raise IntegrityError(f"{left} bytes follow its header, and {shape[0] * dtype.itemsize} are due")
    return shape[0]


def _check_uids(
    file: BinaryIO, shard: manifests.Shard, dataset: tuple[str, list[manifests.Shard]] | None
) -> Iterator[str]:
    """Compares all at once, 16 bytes a row in memory, as the export itself needed."""
    uids = np.load(file, allow_pickle=False)
    high, low = uids["f0"], uids["f1"]
    rises = (high[:-1] < high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] < low[1:]))
    if not rises.all():
        row = int(rises.argmin()) + 1
        what = "the same as" if uids[row] == uids[row - 1] else "below"
        yield f"row {row} ({_hex(uids[row])}) is {what} the one before; uids must be sorted, each of them once"
        return
    if dataset is None:
        return
    theirs = np.fromiter(
        (bytes.fromhex(uid) for index in range(len(dataset[1])) for uid in _uids_of(dataset, index)), "S16"
    )
    theirs.sort()
    numbers = theirs.view(">u8").reshape(-1, 2)
    if len(numbers) != len(uids):
        yield f"{len(uids)} uids, and {len(numbers)} rows in the dataset"
        return
    differs = (numbers[:, 0] != high) | (numbers[:, 1] != low)
    if differs.any():
        row = int(differs.argmax())
        yield f"row {row} is {_hex(uids[row])}, and {_hex(numbers[row])} in the dataset, sorted"


def _hex(uid: Any) -> str:
    return f"{int(uid[0]):016x}{int(uid[1]):016x}"
