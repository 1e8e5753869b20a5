"""`parquet:GLOB`: Parquet files with a column of image bytes and one of texts.

An image is bytes, or the struct of `bytes` and `path` that Hugging Face's datasets write. A text is a string, or a list
of strings, which makes one example for each. Columns of languages and urls are read where there are any.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.sources import MAX_BYTES, Fields, RawPair, Task, expand, expand_captions
from beam_pipelines.sources.reading import open_file
from schemas.errors import DataError
from schemas.rejections import Reason

_ROWS = 64  # held at a time
_DAMAGE = (OSError, pa.ArrowException)
_BUFFER = 1 << 20  # bytes of a column read at a time; without one, a whole row group is


class Parquet:
    """Parquet files, each one task, streamed."""

    def __init__(self, fields: Fields):
        self._fields = fields

    def list_tasks(self, address: str) -> list[Task]:
        """One task for each file.

        Raises:
          DataError: the first file is no Parquet, or has no such columns; names those that it has.
        """
        found = expand(address)
        path, _ = found[0]
        try:
            with open_file(path) as file:
                self._columns(pq.ParquetFile(file).schema_arrow)
        except (*_DAMAGE, _UnsuitableError) as error:
            raise DataError(f"{path} cannot be read as Parquet of image-text pairs: {error}") from None
        return [Task(index=i, path=path, name=name) for i, (path, name) in enumerate(found)]

    def read(self, task: Task) -> Iterator[RawPair]:
        """Yields the pairs of one file; a row's source is its number. A damaged row group is one rejection."""
        try:
            with open_file(task.path) as file:
                parquet = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
                columns = self._columns(parquet.schema_arrow)
                first = 0
                for group in range(parquet.num_row_groups):
                    last = first + parquet.metadata.row_group(group).num_rows
                    yield from self._row_group(parquet, group, columns, task.name, first, last)
                    first = last
        except (*_DAMAGE, _UnsuitableError) as error:
            yield RawPair(source=task.name, problem=Reason.UNREADABLE_SOURCE, detail=str(error))

    def _row_group(
        self, parquet: pq.ParquetFile, group: int, columns: list[str], name: str, first: int, last: int
    ) -> Iterator[RawPair]:
        row = first
        try:
            for batch in parquet.iter_batches(_ROWS, row_groups=[group], columns=columns):
                values = {name: batch.column(name) for name in columns}
                for place in range(len(batch)):
                    yield from self._pairs(f"{name}@{row}", values, place)
                    row += 1
        except _DAMAGE as error:
            yield RawPair(
                source=f"{name}@{row}", problem=Reason.UNREADABLE_SOURCE, detail=f"to row {last - 1}: {error}"
            )

    def _columns(self, schema: pa.Schema) -> list[str]:
        """The columns to read; checks that those of images and texts are there and hold such."""
        fields = self._fields
        for role, name, suits, holds in (
            ("image", fields.image, _holds_images, "bytes, or a struct with `bytes`"),
            ("text", fields.text, _holds_texts, "strings, or lists of strings"),
        ):
            if schema.names.count(name) != 1:
                count = "no" if name not in schema.names else "more than one"
                raise _UnsuitableError(
                    f"there is {count} column {name!r} of {role}s; there are {', '.join(schema.names)}: give "
                    f"--{role}_field"
                )
            if not suits(kind := schema.field(name).type):
                raise _UnsuitableError(f"column {name!r} of {role}s holds {kind}; it must hold {holds}")
        optional = [name for name in (fields.language, fields.url) if schema.names.count(name) == 1]
        return list(dict.fromkeys([fields.image, fields.text, *optional]))

    def _pairs(self, source: str, columns: dict[str, pa.Array], place: int) -> Iterator[RawPair]:
        fields, values = self._fields, {}
        for name in (fields.text, fields.language, fields.url):
            try:
                values[name] = columns[name][place].as_py() if name in columns else None
            except UnicodeDecodeError as error:
                yield RawPair(source=source, problem=Reason.INVALID_TEXT, detail=f"column {name!r}: {error}")
                return
        image, texts = _bytes(columns[fields.image][place]), _texts(values[fields.text])
        if image is None:
            yield RawPair(source=source, problem=Reason.MISSING_IMAGE, detail=f"column {fields.image!r} holds no bytes")
        elif len(image) > MAX_BYTES:
            yield RawPair(source=source, problem=Reason.FILE_TOO_LARGE, detail=f"image: over {MAX_BYTES} bytes")
        elif texts is None:
            yield RawPair(source=source, problem=Reason.MISSING_TEXT, detail=f"column {fields.text!r} holds no text")
        else:
            found = {"language": values[fields.language], "url": values[fields.url]}
            yield from expand_captions(source, image, texts, found)


class _UnsuitableError(Exception):
    """A Parquet file without the columns that are needed."""


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_texts(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):  # a pandas category
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _bytes(value: pa.Scalar) -> bytes | None:
    if pa.types.is_struct(value.type):
        if not value.is_valid:
            return None
        value = value["bytes"]
    return value.as_py()


def _texts(value: Any) -> list[str] | None:
    """The texts of a row; None if there are none, or one of them is null."""
    texts = [value] if isinstance(value, str) else value
    return texts if texts and all(isinstance(text, str) for text in texts) else None
