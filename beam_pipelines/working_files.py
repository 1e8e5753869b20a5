"""Parquet files that one step of `curate` hands on to the next, in the output's working folder.

Which rows were chosen goes on in files, not as elements of the graph: a runner is told those, and they grow with the
rows. A file is committed once, so a later attempt takes up what is there.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines import job
from beam_pipelines.curate_plan import Output
from schemas import storage


def folder(output: Output) -> storage.epath.Path:
    """Where they lie."""
    return storage.as_path(output.directory) / job.WORK_DIRECTORY


def write(path: storage.epath.Path, table: pa.Table) -> None:
    """Commits a file; one already there is an earlier attempt's, with the same rows."""
    with storage.temporary_file(path) as temporary:
        pq.write_table(table, temporary)
        storage.commit(temporary, path)


def read(paths: Iterable[storage.epath.Path]) -> Iterator[pa.Table]:
    """Reads files whole, one after another."""
    for path in paths:
        yield pq.read_table(pa.BufferReader(storage.read_bytes(path)))


def scan(output: Output, names: list[str]) -> pa.RecordBatchReader:
    """Streams files of one schema in the order of their names, one of them in memory at a time."""
    paths = [folder(output) / name for name in sorted(names)]
    schema = pq.read_schema(pa.BufferReader(storage.read_bytes(paths[0])))
    return pa.RecordBatchReader.from_batches(schema, (b for table in read(paths) for b in table.to_batches()))
