"""ArrayRecord shards: the one owner of their reading and writing.

ArrayRecord opens a truncated, empty or missing file without complaint and reports zero rows, so every open here
checks `ok()` and the row count against what the caller was promised. Its writer only knows local files, so a
shard is written to a temporary file, reopened, counted, and then committed (`schemas/storage.py`).

It reads `gs://` itself, and by default sends one request for every row. Consecutive rows are therefore asked for as a
range, and ranges are read ahead: then a block of rows is one request (`benchmarks/object_storage.py` counts them).
"""

import bisect
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from schemas import access, records, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, IntegrityError

# Images do not compress again and neither do unit vectors; group_size 1 gives random access to every row.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:{},max_parallelism:0"
_READ_BUFFER = 1 << 15
# How much of a range one request may bring, at most; no more than the range is ever asked for.
_REMOTE_READAHEAD = 1 << 23


def shard_name(dataset: manifests.DatasetInfo, index: int, count: int, suffix: str = "array_record") -> str:
    """Returns a shard's file name in TFDS's convention, from 0; the suffix names the kind of file."""
    return f"{dataset.name}-{dataset.split}.{suffix}-{index:05d}-of-{count:05d}"


@dataclass(frozen=True)
class WrittenShard:
    """A committed shard, and whether an earlier attempt had made it."""

    shard: manifests.Shard
    adopted: bool


def write_shard(path: Any, rows: Iterable[bytes]) -> WrittenShard:
    """Writes and commits one shard; if one is there already, checks that it holds the same rows and adopts it.

    Raises:
      IntegrityError: the file already there holds other uids, in another order or number.
      OSError: the file could not be written.
    """
    with storage.temporary_file(path) as temporary:
        count = write_file(temporary, rows)
        size, digest = storage.hash_file(temporary)
        mine = manifests.Shard(name=storage.as_path(path).name, rows=count, bytes=size, sha256=digest)
        if storage.commit(temporary, path):
            return WrittenShard(mine, adopted=False)
        found = adopt_shard(path, uids=[records.record_uid(row) for row in read_all(temporary, count)])
        return WrittenShard(found, adopted=True)


def write_file(path: Path, rows: Iterable[bytes]) -> int:
    """Writes a local file that nobody else looks at yet, and opens it again; returns its number of rows.

    Raises:
      OSError: it could not be written.
    """
    writer = _Writer(path)
    count = 0
    for row in rows:
        writer.write(row)
        count += 1
    writer.close()
    with ShardReader(path, count):
        pass
    return count


def adopt_shard(path: Any, *, uids: Sequence[str]) -> manifests.Shard:
    """Describes a shard that an earlier attempt committed, after checking that it holds exactly these rows.

    Raises:
      IntegrityError: it does not.
    """
    with ShardReader(path, len(uids)) as reader:
        for first in range(0, len(uids), 1024):
            last = min(first + 1024, len(uids))
            for offset, row in enumerate(reader.read_range(first, last)):
                if records.record_uid(row) != uids[first + offset]:
                    raise IntegrityError(
                        f"{path} exists and its row {first + offset} is {records.record_uid(row)}, not "
                        f"{uids[first + offset]}: another job wrote here. Delete the directory or choose another"
                    )
    size, digest = storage.hash_file(path)
    return manifests.Shard(name=storage.as_path(path).name, rows=len(uids), bytes=size, sha256=digest)


class ShardReader:
    """Random access to the rows of one shard whose row count is known.

    Raises:
      IntegrityError: on opening, if the file is missing, truncated or has another number of rows; on reading,
        if a record cannot be read.
    """

    def __init__(self, path: Any, rows: int):
        self._path = str(path)
        self.rows = rows
        access.check(self._path)
        options = _READER_OPTIONS.format(_REMOTE_READAHEAD if storage.is_remote(self._path) else 0)
        self._reader = ArrayRecordReader(self._path, options=options, file_reader_buffer_size=_READ_BUFFER)
        if not self._reader.ok():
            self.close()
            raise IntegrityError(f"{self._path} cannot be opened as ArrayRecord: missing, truncated or not a shard")
        found = self._reader.num_records()
        if found != rows:
            self.close()
            raise IntegrityError(
                f"{self._path} has {found} readable rows and {rows} were promised: it is truncated, or not the "
                "file its manifest describes"
            )

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        # A damaged file raises again when it is closed; what mattered was said when it was opened or read.
        with contextlib.suppress(RuntimeError):
            self._reader.close()

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """Reads rows by index, in the order asked, in one batched call; up to two consecutive runs as ranges."""
        outside = [row for row in rows if not 0 <= row < self.rows]
        if outside:
            raise IntegrityError(f"{self._path} has rows 0 … {self.rows - 1}; row {outside[0]} was asked for")
        # A block of rows is one run, or two where it wraps around the corpus.
        breaks = [place for place in range(1, len(rows)) if rows[place] != rows[place - 1] + 1]
        if len(breaks) > 1:
            return self._checked(list(rows))
        edges = [0, *breaks, len(rows)]
        runs = [rows[first:last] for first, last in itertools.pairwise(edges) if first < last]
        return [record for run in runs for record in self._checked(run[0], run[-1] + 1)]

    def read_range(self, first: int, last: int) -> list[bytes]:
        """Reads rows `first` to `last`, the latter exclusive."""
        if not 0 <= first <= last <= self.rows:
            raise IntegrityError(f"{self._path} has rows 0 … {self.rows - 1}; [{first}, {last}) was asked for")
        return self._checked(first, last) if first < last else []

    def _checked(self, *arguments: Any) -> list[bytes]:
        try:
            return self._reader.read(*arguments)
        except (RuntimeError, IndexError) as error:
            raise IntegrityError(
                f"{self._path}: rows could not be read; the file is damaged. {error}".rstrip()
            ) from None


class _Writer:
    """ArrayRecord's writer, which tells of a full disk in a RuntimeError: here it is the OSError that it is."""

    def __init__(self, path: Path):
        self._path = path
        self._writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)

    def write(self, row: bytes) -> None:
        try:
            self._writer.write(row)
        except RuntimeError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        try:
            healthy = self._writer.ok()  # always False once closed
            self._writer.close()
        except RuntimeError as error:
            raise self._failure(error) from None
        if not healthy:
            raise self._failure("is the disk full?")

    def _failure(self, why: object) -> OSError:
        return OSError(f"{self._path} could not be written: {why}")


def read_all(path: Any, rows: int, batch: int = 1024) -> Iterator[bytes]:
    """Yields every row of a shard in order, reading `batch` rows at a time."""
    with ShardReader(path, rows) as reader:
        for first in range(0, rows, batch):
            yield from reader.read_range(first, min(first + batch, rows))


class DatasetReader:
    """Random access by global row over all shards of a complete artifact: row 0 is row 0 of shard 0.

    Readers are opened when first needed, and dropped when pickled.
    """

    def __init__(self, directory: str, shards: Sequence[manifests.Shard]):
        self.directory = directory
        self._shards = list(shards)
        self._starts = [0, *itertools.accumulate(shard.rows for shard in shards)]
        self._readers: dict[int, ShardReader] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """Reads global rows in the order asked: one batched read for each shard they lie in."""
        places: dict[int, list[tuple[int, int]]] = {}
        for place, row in enumerate(rows):
            shard, local = self._locate(row)
            places.setdefault(shard, []).append((place, local))
        found: list[bytes] = [b""] * len(rows)
        for shard, wanted in sorted(places.items()):
            contents = self._open(shard).read([local for _, local in wanted])
            for (place, _), content in zip(wanted, contents, strict=True):
                found[place] = content
        return found

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise ConfigError(f"{self.directory} has rows 0 … {len(self) - 1}; row {row} was asked for")
        shard = bisect.bisect_right(self._starts, row) - 1
        return shard, row - self._starts[shard]

    def _open(self, shard: int) -> ShardReader:
        if shard not in self._readers:
            described = self._shards[shard]
            self._readers[shard] = ShardReader(storage.as_path(self.directory) / described.name, described.rows)
        return self._readers[shard]


def open_dataset(directory: str, manifest: manifests.Manifest) -> DatasetReader:
    """Opens the rows of a complete corpus or embeddings directory."""
    return DatasetReader(directory, manifest.shards)
