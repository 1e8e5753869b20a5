"""`tfds:ADDRESS`: a prepared TFDS dataset with an image feature and a text feature, in ArrayRecord or TFRecord files.

ADDRESS is the dataset's directory (that of `features.json`), or its name where TFDS finds it prepared; `@SPLIT` after
it names the split, if there are several. Features are named by path (`captions/text` is the text of each element of
`captions`). A sequence of texts makes one example for each; a class label's text is the name of its class. Images are
taken as they are encoded: nothing is decoded here, and TensorFlow is not imported.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from beam_pipelines import tfrecord
from beam_pipelines.sources import MAX_BYTES, Fields, RawPair, Task, expand_captions
from beam_pipelines.sources.reading import open_file
from schemas import records, shards, storage
from schemas.errors import DataError, IntegrityError
from schemas.rejections import Reason

_ROWS = 64  # read at a time
_ADDRESS = re.compile(r"(.+?)(?:@(\w+))?")


class Tfds:
    """The shards of one split, each one task."""

    def __init__(self, fields: Fields):
        self._fields = fields

    def list_tasks(self, address: str) -> list[Task]:
        """One task for each shard; `last` is the number of its rows.

        Raises:
          DataError: there is no such dataset or split, or it has no such features; names those that it has.
        """
        found = _ADDRESS.fullmatch(address)
        address, split = (found[1], found[2]) if found else (address, None)
        builder = _builder(address)
        self._layout(builder)
        splits = builder.info.splits
        if split is None and len(splits) == 1:
            [split] = splits
        if split not in splits:
            names = ", ".join(splits)
            raise DataError(
                f"{address} has the splits {names}: name one, as in tfds:{address}@{next(iter(splits), '')}"
            )
        shards_ = zip(splits[split].filepaths, splits[split].shard_lengths, strict=True)
        return [Task(index=i, path=str(path), name=path.name, last=rows) for i, (path, rows) in enumerate(shards_)]

    def read(self, task: Task) -> Iterator[RawPair]:
        """Yields the pairs of one shard; a row's source is its number."""
        layout = self._layout(_builder(task.path.rpartition("/")[0]))
        read = _array_record if ".array_record" in task.name else _tf_record
        for row, record in read(task.path, task.last):
            source = f"{task.name}@{row}"
            if isinstance(record, str):
                yield RawPair(source=source, problem=Reason.UNREADABLE_SOURCE, detail=record)
            else:
                yield from layout.pairs(source, record)

    def _layout(self, builder: Any) -> "_Layout":
        return _Layout(
            image=_image(builder, self._fields.image),
            text=_text(builder, self._fields.text, many=True),
            **{role: _optional(builder, getattr(self._fields, role)) for role in ("language", "url")},
        )


@dataclass(frozen=True)
class _Text:
    """A feature that holds texts, or numbers of named classes."""

    name: str
    classes: Sequence[str] | None = None

    def read(self, features: Any) -> list[str] | None:
        """The texts of a row; None if there are none. Raises UnicodeDecodeError."""
        if self.name not in features:
            return None
        if self.classes is None:
            return [text.decode() for text in features[self.name].bytes_list.value] or None
        numbers = features[self.name].int64_list.value
        return [str(self.classes[n]) for n in numbers if 0 <= n < len(self.classes)] or None


@dataclass(frozen=True)
class _Layout:
    """Which features of a row are what."""

    image: str
    text: _Text
    language: _Text | None
    url: _Text | None

    def pairs(self, source: str, record: bytes) -> Iterator[RawPair]:
        """Yields the pairs of a row: a serialized `tf.train.Example`."""
        try:
            features = records.parse(record)
            texts = self.text.read(features)
            found = {
                role: next(iter(feature.read(features) or []), "")
                for role, feature in (("language", self.language), ("url", self.url))
                if feature is not None
            }
        except IntegrityError as error:
            yield RawPair(source=source, problem=Reason.INVALID_RECORD, detail=str(error))
            return
        except UnicodeDecodeError as error:
            yield RawPair(source=source, problem=Reason.INVALID_TEXT, detail=str(error))
            return
        images = features[self.image].bytes_list.value if self.image in features else []
        if not images or not images[0]:
            yield RawPair(source=source, problem=Reason.MISSING_IMAGE, detail=f"feature {self.image!r} holds no bytes")
        elif texts is None:
            yield RawPair(
                source=source, problem=Reason.MISSING_TEXT, detail=f"feature {self.text.name!r} holds no text"
            )
        else:
            yield from expand_captions(source, images[0], texts, cast(dict[str, object], found))


# --- What the dataset says of itself ----------------------------------------------------------------------------------


@functools.cache
def _builder(address: str) -> Any:
    """TFDS's builder of a prepared dataset; raises DataError if there is none."""
    import tensorflow_datasets as tfds

    directory = storage.as_path(address)
    try:
        if (directory / "features.json").exists():
            return tfds.builder_from_directory(directory)
        if directory.exists() or address[0] in "/.~" or storage.is_remote(address):
            raise DataError(f"{address} holds no features.json: name the directory of a prepared TFDS dataset")
        builder = tfds.builder(address)
    except (OSError, ValueError, KeyError, AttributeError, ImportError, tfds.core.DatasetNotFoundError) as error:
        raise DataError(f"{address} is no TFDS dataset that can be read: {error}") from None
    if not (builder.data_path / "features.json").exists():
        raise DataError(
            f"{address} is not prepared: {builder.data_path} holds no features.json. Run `tfds build` first"
        )
    return builder


def _feature(builder: Any, path: str) -> tuple[Any, int] | None:
    """The feature of this path, and in how many sequences it lies; None if there is none."""
    import tensorflow_datasets as tfds

    node, depth = builder.info.features, 0
    for part in path.split("/"):
        while isinstance(node, tfds.features.Sequence):
            node, depth = node.feature, depth + 1
        if not isinstance(node, tfds.features.FeaturesDict) or part not in node:
            return None
        node = node[part]
    while isinstance(node, tfds.features.Sequence):
        node, depth = node.feature, depth + 1
    return node, depth


def _image(builder: Any, name: str) -> str:
    import tensorflow_datasets as tfds

    found = _feature(builder, name)
    if found is None or not isinstance(found[0], tfds.features.Image) or found[1]:
        raise _unsuitable(builder, name, "image", "an Image")
    return name


def _text(builder: Any, name: str, *, many: bool) -> _Text:
    import tensorflow_datasets as tfds

    found = _feature(builder, name)
    if found is None or found[1] > int(many) or not isinstance(found[0], tfds.features.Text | tfds.features.ClassLabel):
        raise _unsuitable(builder, name, "text", "a Text, a sequence of them, or a ClassLabel")
    return _Text(name, found[0].names if isinstance(found[0], tfds.features.ClassLabel) else None)


def _optional(builder: Any, name: str) -> _Text | None:
    try:
        return _text(builder, name, many=False)
    except DataError:
        return None


def _unsuitable(builder: Any, name: str, role: str, wanted: str) -> DataError:
    return DataError(
        f"{builder.data_path} has no feature {name!r} that is {wanted}; its features are {builder.info.features}: give "
        f"--{role}_field"
    )


# --- Its files --------------------------------------------------------------------------------------------------------


def _array_record(path: str, rows: int) -> Iterator[tuple[int, bytes | str]]:
    """Yields (row, record, or what is wrong with it) of an ArrayRecord file; only damaged records are lost."""
    try:
        reader = shards.ShardReader(path, rows)
    except IntegrityError as error:
        yield 0, f"all {rows} rows: {error}"
        return
    with reader:
        for first in range(0, rows, _ROWS):
            last = min(first + _ROWS, rows)
            try:
                yield from enumerate(reader.read_range(first, last), first)
            except IntegrityError:
                for row in range(first, last):
                    try:
                        yield row, reader.read_range(row, row + 1)[0]
                    except IntegrityError as error:
                        yield row, str(error)


def _tf_record(path: str, rows: int) -> Iterator[tuple[int, bytes | str]]:
    with open_file(path) as file:
        yield from tfrecord.read(file, rows, MAX_BYTES)
