"""What a dataset is exported to: one file for each format, all of the same shape.

A format makes one file of each shard (`write`), so that shards need nothing of each other, and then what goes over all
of them (`complete`). What it writes depends on the rows, their shards, and the dataset's name and rights alone: two
exports of one dataset are equal, byte for byte.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from beam_pipelines.rights import Rights
from schemas import features, records
from schemas import manifest as manifests
from schemas.errors import IntegrityError
from schemas.identity import UID_HEX_DIGITS

DatasetFormat = Literal["tfrecord", "webdataset", "uids", "parquet"]
_UID = re.compile(f"[0-9a-f]{{{UID_HEX_DIGITS}}}")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a dataset's own manifest says of it; it may be exported under another name."""

    name: str
    version: str
    fingerprint: str
    rights: Rights


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is exported, and under which name. It goes to every worker, so it does not name every shard."""

    directory: str
    info: manifests.DatasetInfo
    version: str
    row_kind: features.RowKind
    shards: int
    rows: int
    origin: Origin


@dataclass(frozen=True)
class Task:
    """One shard to export."""

    index: int
    shard: manifests.Shard
    first: int  # the global row of its first row

    def __str__(self) -> str:
        return self.shard.name


class Format(Protocol):
    """A format that other programs read."""

    def shard_name(self, dataset: Dataset, index: int) -> str:
        """The file that is made of a shard, relative to the output."""
        ...

    def write(self, path: Path, dataset: Dataset, task: Task, rows: Iterable[bytes]) -> None:
        """Writes a shard's rows to a local file that nobody else looks at yet, holding a bounded number in memory."""
        ...

    def beside(self, shard: str, rows: int) -> dict[str, bytes]:
        """Small files that stand beside a shard's file: {name: content}."""
        ...

    def complete(
        self, output: str, dataset: Dataset, written: list[manifests.Shard]
    ) -> tuple[list[manifests.Shard], list[manifests.File]]:
        """Makes what goes over all shards; returns the files that hold rows, and all others. May be done twice."""
        ...


def of(name: DatasetFormat) -> Format:
    """Returns the format of this name."""
    from beam_pipelines.exports.parquet import Parquet
    from beam_pipelines.exports.tfrecord import TfRecord
    from beam_pipelines.exports.uids import Uids
    from beam_pipelines.exports.webdataset import WebDataset

    formats: dict[DatasetFormat, Format] = {
        "tfrecord": TfRecord(),
        "webdataset": WebDataset(),
        "uids": Uids(),
        "parquet": Parquet(),
    }
    return formats[name]


def examples(dataset: Dataset, task: Task, rows: Iterable[bytes]) -> Iterator[records.Example]:
    """Parses a shard's rows, and checks what file names and columns are made of.

    Raises:
      IntegrityError: naming the row that is no example of this dataset.
    """
    for row, record in enumerate(rows):
        try:
            example = records.decode_example(record)
        except IntegrityError as error:
            raise IntegrityError(f"{task} row {row}: {error}") from None
        if not _UID.fullmatch(example.uid):
            raise IntegrityError(f"{task} row {row}: uid is {example.uid!r}; it must be {UID_HEX_DIGITS} hex digits")
        if (kind := _kind(example)) != dataset.row_kind:
            raise IntegrityError(
                f"{task} row {row} has the features of a {kind} row, and features.json those of {dataset.row_kind} rows"
            )
        yield example


def _kind(example: records.Example) -> features.RowKind:
    if example.selection is None:
        return "corpus"
    return "curated" if example.selection.weight is None else "weighted"


def metadata(example: records.Example) -> dict[str, Any]:
    """Everything of an example but image and text, under names that SQL takes: no `/` in them."""
    fields = {
        "uid": example.uid,
        "image_id": example.image_id,
        "language": example.language,
        "url": example.url,
        "source": example.source,
        "width": example.width,
        "height": example.height,
    }
    if example.selection is not None:
        known = {name: value for name, value in vars(example.selection).items() if value is not None}
        fields |= {f"selection_{name}": value for name, value in known.items()}
    return fields
