"""The index of a dataset: a row of Parquet for every one of its rows, with everything but the image.

Enters: the examples of a shard, in its order. Leaves: `index/<name>-<split>-00000-of-00002.parquet`, one file a shard,
which says of every row who it is, what is known of it, and in which shard and row it lies. `COLUMNS` is the one list of
what that is: the Parquet schema, the Croissant description and the dataset card are made from it.
"""

import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import records, storage
from schemas.features import RowKind
from schemas.manifest import DatasetInfo, File

DIRECTORY = "index"
# As many rows are in memory as Python objects, and as columns: BigQuery asks for row groups of 16 MiB and more.
_BATCH_ROWS = 1 << 10
_GROUP_ROWS = 1 << 16
_SELECTION = "selection_"
_ANY: tuple[RowKind, ...] = ("corpus", "curated", "weighted")
_PICKED: tuple[RowKind, ...] = ("curated", "weighted")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """A column: its name and type, what it says, and of which kinds of row."""

    name: str
    type: pa.DataType
    says: str
    of: tuple[RowKind, ...] = _ANY
    places: bool = False
    """whether it says where a row lies, and is no feature of the row itself"""

    @property
    def feature(self) -> str:
        """The name of the feature that it repeats; names of columns have no slash."""
        return self.name.replace(_SELECTION, "selection/")


COLUMNS = (
    Column("uid", pa.string(), "128-bit BLAKE2b of the image's bytes, a NUL and the text: 32 hex digits"),
    Column("image_id", pa.string(), "the same of the image alone: equal for all texts of one image"),
    Column("text", pa.string(), "the caption, in Unicode NFC"),
    Column("language", pa.string(), "of the text: a BCP-47 tag, und where it is not known"),
    Column("url", pa.string(), "where the image was found; empty where it is not known"),
    Column("source", pa.string(), "the file and key that the pair was read from"),
    Column("width", pa.int32(), "of the image as stored, in pixels"),
    Column("height", pa.int32(), "of the image as stored, in pixels"),
    Column("shard", pa.string(), "the ArrayRecord file that holds the row", places=True),
    Column("row_in_shard", pa.int64(), "the row's place in that file, from 0", places=True),
    Column("selection_visits", pa.int64(), "how often the learner picked the row", _PICKED),
    Column("selection_first_step", pa.int64(), "the first step that picked it", _PICKED),
    Column("selection_last_step", pa.int64(), "the last step that picked it", _PICKED),
    Column(
        "selection_learnability", pa.float32(), "mean over its picks of learner loss − reference loss, nats",
        _PICKED,
    ),
    Column("selection_weight", pa.float32(), "what training counts the row for: 1 on average", ("weighted",)),
)  # fmt: skip


def columns(kind: RowKind) -> list[Column]:
    """The columns that rows of a kind have, in order."""
    return [column for column in COLUMNS if kind in column.of]


def schema(kind: RowKind) -> pa.Schema:
    """The Parquet schema of an index over rows of a kind."""
    return pa.schema([pa.field(column.name, column.type, nullable=False) for column in columns(kind)])


def as_row(example: records.Example, kind: RowKind, shard: str, row: int) -> dict[str, Any]:
    """One row of the index: of an example that is row `row` of the file `shard`."""
    place = {"shard": shard, "row_in_shard": row}
    return {c.name: place[c.name] if c.places else _value(example, c.name) for c in columns(kind)}


def _value(example: records.Example, name: str) -> Any:
    if name.startswith(_SELECTION):
        return getattr(example.selection, name.removeprefix(_SELECTION))
    return getattr(example, name)


def file_name(shard: str) -> str:
    """The name of a shard's index inside the dataset: `index/` and the shard's own, with another suffix."""
    return f"{DIRECTORY}/{shard.replace('.array_record-', '-')}.parquet"


def pattern(dataset: DatasetInfo) -> str:
    """The files of a dataset's index, as a wildcard inside the dataset."""
    return f"{DIRECTORY}/{dataset.name}-{dataset.split}-*.parquet"


@dataclass(frozen=True)
class Indexed:
    """A committed index of one shard, and how many of its rows each language has."""

    file: File
    languages: dict[str, int]


class Table:
    """A Parquet file that grows row by row, with a row group in memory at a time. Equal rows give equal bytes."""

    def __init__(self, path: Path, columns: pa.Schema):
        self._schema = columns
        self._file = pq.ParquetWriter(path, columns, compression="zstd")
        self._batch: list[dict[str, Any]] = []
        self._group: list[pa.RecordBatch] = []

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *raised: Any) -> None:
        self._file.close()

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row: its values by column."""
        self._batch.append(row)
        if len(self._batch) == _BATCH_ROWS:
            self._end_batch()
        if len(self._group) * _BATCH_ROWS == _GROUP_ROWS:
            self._end_group()

    def close(self) -> None:
        """Writes what is left."""
        if self._batch:
            self._end_batch()
        if self._group:
            self._end_group()
        self._file.close()

    def _end_batch(self) -> None:
        self._group.append(pa.RecordBatch.from_pylist(self._batch, schema=self._schema))
        self._batch = []

    def _end_group(self) -> None:
        self._file.write_table(pa.Table.from_batches(self._group), row_group_size=_GROUP_ROWS)
        self._group = []


class Writer:
    """Writes the index of one shard.

    The file's bytes follow from the rows alone, so one that is there already is either the same or damaged.
    """

    def __init__(self, directory: str, kind: RowKind, shard: str):
        self._path = storage.as_path(directory) / file_name(shard)
        self._kind: RowKind = kind
        self._shard = shard
        self._languages: Counter[str] = Counter()
        self._rows = 0
        self._stack = ExitStack()

    def __enter__(self) -> "Writer":
        self._temporary = self._stack.enter_context(storage.temporary_file(self._path))
        self._table = self._stack.enter_context(Table(self._temporary, schema(self._kind)))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def add(self, example: records.Example) -> records.Example:
        """Adds the shard's next row; returns it."""
        self._table.add(as_row(example, self._kind, self._shard, self._rows))
        self._languages[example.language] += 1
        self._rows += 1
        return example

    def commit(self) -> Indexed:
        """Puts the index under its name."""
        self._table.close()
        size, digest = storage.hash_file(self._temporary)
        while not storage.commit(self._temporary, self._path) and not self._stands_there(size, digest):
            log.warning("%s is damaged and is made anew", self._path)
            self._path.unlink(missing_ok=True)
        return Indexed(File(name=file_name(self._shard), bytes=size, sha256=digest), dict(self._languages))

    def _stands_there(self, size: int, digest: str) -> bool:
        try:
            return storage.hash_file(self._path) == (size, digest)
        except FileNotFoundError:  # another attempt makes it anew at this moment
            return False
