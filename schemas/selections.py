"""Selections: the durable log of every pick, and of what was offered and passed over.

`selections/` holds Parquet part files over fixed step ranges, independent of checkpoints: `picks-*` with one
row a pick, and `superbatches-*` with one row a step. Offers of every row can be counted from the block ids, and
the candidates' scores can be seen as quantiles.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import manifest as manifests
from schemas import storage

DIRECTORY = "selections"
QUANTILE_LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

PICKS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("pick", pa.int32(), nullable=False),  # place in drawing order, from 0
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # global row of the corpus
        pa.field("uid", pa.string(), nullable=False),
        pa.field("learner_nll", pa.float32(), nullable=False),  # the pair's own term, nats
        pa.field("reference_nll", pa.float32(), nullable=False),
        pa.field("conditional", pa.float32(), nullable=False),  # its logit when drawn, without gain and noise
    ]
)
SUPERBATCHES = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("blocks", pa.list_(pa.int64()), nullable=False),
        pa.field("score_quantiles", pa.list_(pa.float32()), nullable=False),  # of S_jj, at QUANTILE_LEVELS
    ]
)


def part_name(table: str, first_step: int, last_step: int) -> str:
    """Returns a part's file name; both steps are inclusive."""
    return f"{table}-{first_step:08d}-{last_step:08d}.parquet"


def write_part(path: storage.epath.Path, rows: pa.Table) -> bool:
    """Commits one part file; returns False if it was there already."""
    with storage.temporary_file(path) as temporary:
        pq.write_table(rows, temporary, compression="zstd")
        return storage.commit(temporary, path)


def resolve(path: str) -> str:
    """Returns the selections directory of a distill workdir, or the path itself if it is one already."""
    inside = storage.as_path(path) / DIRECTORY
    return str(inside) if manifests.exists(str(inside)) else path


def read_picks(directory: str, columns: list[str] | None = None) -> pa.Table:
    """Reads all picks of a complete selections directory, in step order."""
    return _read(directory, "picks", PICKS, columns)


def read_superbatches(directory: str) -> pa.Table:
    """Reads what was offered at every step of a complete selections directory."""
    return _read(directory, "superbatches", SUPERBATCHES, None)


def scan_picks(directory: str) -> pa.RecordBatchReader:
    """Streams the picks of a complete selections directory, one part file in memory at a time."""
    return _scan(directory, "picks", PICKS)


def scan_superbatches(directory: str) -> pa.RecordBatchReader:
    """Streams what was offered at every step, one part file in memory at a time."""
    return _scan(directory, "superbatches", SUPERBATCHES)


def _read(directory: str, table: str, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    return pa.concat_tables(_parts(directory, table, schema, columns))


def _scan(directory: str, table: str, schema: pa.Schema) -> pa.RecordBatchReader:
    batches = (batch for part in _parts(directory, table, schema, None) for batch in part.to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


def _parts(directory: str, table: str, schema: pa.Schema, columns: list[str] | None) -> Iterator[pa.Table]:
    manifest = manifests.read(directory, kind="selections")
    names = [f.name for f in [*manifest.shards, *manifest.files]]
    for name in sorted(n for n in names if PurePosixPath(n).name.startswith(f"{table}-")):
        with (storage.as_path(directory) / name).open("rb") as file:
            yield pq.read_table(file, columns=columns, schema=schema)
