"""`parquet`: what is known of each row, without its image: tables for DuckDB, BigQuery and whoever asks in SQL.

One file for each shard. `row` is the row's number in the whole dataset, as in the log of picks; `shard` and
`row_in_shard` say where its image is. Column names have letters, digits and `_` only, since BigQuery takes no others.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.exports import Dataset, Task, examples, metadata
from schemas import features
from schemas import manifest as manifests

_BATCH_ROWS = 1024  # as Python objects
_GROUP_ROWS = 1 << 16  # as columns: a row group, which is what is in memory until it is written
_PLACE = {"row": pa.int64(), "shard": pa.string(), "row_in_shard": pa.int64()}
_EXAMPLE = {
    "uid": pa.string(),
    "image_id": pa.string(),
    "text": pa.string(),
    "language": pa.string(),
    "url": pa.string(),
    "source": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
}
_SELECTION = {
    "selection_visits": pa.int64(),
    "selection_first_step": pa.int64(),
    "selection_last_step": pa.int64(),
    "selection_learnability": pa.float32(),
}


def schema(kind: features.RowKind) -> pa.Schema:
    """The columns of a kind of row."""
    columns = _PLACE | _EXAMPLE | (_SELECTION if kind == "curated" else {})
    return pa.schema([pa.field(name, kind_, nullable=False) for name, kind_ in columns.items()])


class Parquet:
    """One table for each shard."""

    def shard_name(self, dataset: Dataset, index: int) -> str:
        """Numbered from 0, of how many."""
        return f"{dataset.info.name}-{dataset.info.split}-{index:05d}-of-{dataset.shards:05d}.parquet"

    def write(self, path: Path, dataset: Dataset, task: Task, rows: Iterable[bytes]) -> None:
        """Writes the table, one row group in memory at a time."""
        columns = schema(dataset.row_kind)
        found = (
            {
                "row": task.first + row, "shard": task.shard.name, "row_in_shard": row, "text": example.text,
                **metadata(example),
            }
            for row, example in enumerate(examples(dataset, task, rows))
        )  # fmt: skip
        batches = _as_columns(found, columns)
        with pq.ParquetWriter(path, columns, compression="zstd") as writer:
            while group := list(itertools.islice(batches, _GROUP_ROWS // _BATCH_ROWS)):
                writer.write_table(pa.Table.from_batches(group), row_group_size=_GROUP_ROWS)

    def beside(self, shard: str, rows: int) -> dict[str, bytes]:
        """Nothing."""
        return {}

    def complete(
        self, output: str, dataset: Dataset, written: list[manifests.Shard]
    ) -> tuple[list[manifests.Shard], list[manifests.File]]:
        """Needs nothing more."""
        return written, []


def _as_columns(rows: Iterator[dict[str, Any]], columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    while batch := list(itertools.islice(rows, _BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(batch, schema=columns)
