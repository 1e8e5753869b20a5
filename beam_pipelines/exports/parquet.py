"""`parquet`: what is known of each row, without its image: tables for DuckDB, BigQuery and whoever asks in SQL.

One file for each shard, with the columns of a curated dataset's index (`schemas/index.py`) and, before them, `row`: the
row's number in the whole dataset, as in the log of picks.
"""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from beam_pipelines.exports import Dataset, Task, examples
from schemas import features, index
from schemas import manifest as manifests

_ROW = pa.field("row", pa.int64(), nullable=False)


def schema(kind: features.RowKind) -> pa.Schema:
    """The columns of a kind of row."""
    return pa.schema([_ROW, *index.schema(kind)])


class Parquet:
    """One table for each shard."""

    def shard_name(self, dataset: Dataset, index: int) -> str:
        """Numbered from 0, of how many."""
        return f"{dataset.info.name}-{dataset.info.split}-{index:05d}-of-{dataset.shards:05d}.parquet"

    def write(self, path: Path, dataset: Dataset, task: Task, rows: Iterable[bytes]) -> None:
        """Writes the table, one row group in memory at a time."""
        with index.Table(path, schema(dataset.row_kind)) as table:
            for row, example in enumerate(examples(dataset, task, rows)):
                known = index.as_row(example, dataset.row_kind, task.shard.name, row)
                table.add({_ROW.name: task.first + row, **known})
            table.close()

    def beside(self, shard: str, rows: int) -> dict[str, bytes]:
        """Nothing."""
        return {}

    def complete(
        self, output: str, dataset: Dataset, written: list[manifests.Shard]
    ) -> tuple[list[manifests.Shard], list[manifests.File]]:
        """Needs nothing more."""
        return written, []
