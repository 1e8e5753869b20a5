"""`img2dataset:ADDRESS`: what img2dataset downloaded in its `webdataset` format: tars with a Parquet file beside each.

ADDRESS is the output folder, or names its tars. The Parquet file has a row for every url that was tried, with `key`,
`status`, `error_message`, `url`, `caption` and the columns the user kept. It decides: a url that gave no image is a
rejection of its own kind, and captions, languages and urls are taken from it.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.sources import Fields, RawPair, Task, expand
from beam_pipelines.sources.reading import read_named
from beam_pipelines.sources.webdataset import groups, pairs
from schemas.errors import DataError
from schemas.rejections import Reason

_SUCCESS = "success"
_NEEDED = ("key", "status")


class Img2Dataset:
    """Tar files with their Parquet files, each pair of them one task."""

    def __init__(self, fields: Fields):
        self._fields = fields

    def list_tasks(self, address: str) -> list[Task]:
        """One task for each tar file.

        Raises:
          DataError: the first tar has no Parquet file beside it, or one without the columns that are needed.
        """
        found = expand(address if address.endswith(".tar") else f"{address.rstrip('/')}/*.tar")
        path, _ = found[0]
        try:
            if self._tried(path) is None:
                raise DataError(
                    f"{_sidecar(path)} does not exist: img2dataset writes it beside {path}. Tars alone are webdataset:"
                )
        except (OSError, pa.ArrowException, _UnsuitableError) as error:
            raise DataError(f"{_sidecar(path)} cannot be read as img2dataset's: {error}") from None
        return [Task(index=i, path=path, name=name) for i, (path, name) in enumerate(found)]

    def read(self, task: Task) -> Iterator[RawPair]:
        """Yields the pairs of one tar in its order, then what became of the other urls in that of the Parquet file."""
        try:
            tried = self._tried(task.path)
        except (OSError, pa.ArrowException, _UnsuitableError) as error:
            yield RawPair(source=_sidecar(task.name), problem=Reason.UNREADABLE_SOURCE, detail=str(error))
            return
        if tried is None:
            detail = f"{_sidecar(task.name)} does not exist: img2dataset has not finished this shard"
            yield RawPair(source=task.name, problem=Reason.UNREADABLE_SOURCE, detail=detail)
            return
        for key, found in groups(task):
            known = tried.pop(key, None)
            if isinstance(found, RawPair):
                yield found
            elif known is None:
                detail = f"{_sidecar(task.name)} has no such key, or a second time"
                yield RawPair(source=found.source, problem=Reason.INVALID_RECORD, detail=detail)
            else:
                yield from pairs(found, self._record(known))
        for key, known in tried.items():
            yield _absent(f"{task.name}::{key}", known)

    def _tried(self, tar: str) -> dict[str, dict[str, Any]] | None:
        """Every url that was tried, by its key; None if there is no Parquet file."""
        content = read_named(_sidecar(tar))
        if content is None:
            return None
        file = pq.ParquetFile(pa.BufferReader(content))
        names = file.schema_arrow.names
        if missing := [name for name in _NEEDED if name not in names]:
            raise _UnsuitableError(f"there is no column {missing[0]!r}; there are {', '.join(names)}")
        wanted = (*_NEEDED, "error_message", "url", *(getattr(self._fields, n) for n in ("text", "language", "url")))
        rows = file.read([name for name in dict.fromkeys(wanted) if name in names]).to_pylist()
        return {str(row["key"]): row for row in rows}

    def _record(self, known: dict[str, Any]) -> dict[str, object]:
        """The fields of a row under the names that records have; none where the row has none."""
        names = {"caption": self._fields.text, "language": self._fields.language, "url": self._fields.url}
        return {name: known[column] for name, column in names.items() if known.get(column)}


class _UnsuitableError(Exception):
    """A Parquet file without the columns that are needed."""


def _sidecar(tar: str) -> str:
    return tar.removesuffix(".tar") + ".parquet"


def _absent(source: str, known: dict[str, Any]) -> RawPair:
    status, address = known["status"], known.get("url") or ""
    if status == _SUCCESS:
        detail = "img2dataset reports success, and the tar has no such key"
        return RawPair(source=source, problem=Reason.MISSING_IMAGE, detail=detail)
    detail = f"{status}: {known.get('error_message') or 'no message'}; {address}"
    return RawPair(source=source, problem=Reason.NOT_DOWNLOADED, detail=detail)
