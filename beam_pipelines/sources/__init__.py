"""Where raw pairs come from: one file for each format, all of the same shape.

A source turns its address into tasks (`list_tasks`) and a task into raw pairs (`read`). A task is a file or a
range of one, small enough to be done again. Order matters: of exact duplicates, the first in task order is kept.
"""

import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from schemas import storage
from schemas.errors import ConfigError, DataError
from schemas.rejections import Reason


@dataclass(frozen=True, kw_only=True)
class RawPair:
    """An image and one text as found, or the problem that stands in their place. `source` is file and key."""

    source: str
    image: bytes = b""
    text: str = ""
    language: str = "und"
    url: str = ""
    problem: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of a source that is read in one go."""

    index: int
    path: str
    name: str  # the path as rows record it: relative to the source's root
    first: int = 0  # meaning and unit are the source's own
    last: int = 0


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What the parts of a pair are called, in sources that name them; the usual names."""

    image: str = "image"
    text: str = "text"
    language: str = "language"
    url: str = "url"


MAX_BYTES = 1 << 28  # of one stored image or text


class Source(Protocol):
    """A format that `ingest` reads."""

    def list_tasks(self, address: str) -> list[Task]:
        """Cuts the source into tasks, in a fixed order."""
        ...

    def read(self, task: Task) -> Iterator[RawPair]:
        """Yields the pairs of a task, in a fixed order. Never raises for what is in the data.

        Files are opened with `sources.reading`, which raises where a disk or a store does not give what is in them.
        """
        ...


def parse(source: str, fields: Mapping[str, str] | None = None) -> tuple[Source, str]:
    """Splits `format:address` and returns the format's source.

    Args:
      source: what to read.
      fields: names of the parts of a pair (those of `Fields`), where they are not the format's usual ones.

    Raises:
      ConfigError: the format is not known, or the address is empty, or a part is named whose name the format fixes.
    """
    from beam_pipelines.sources.folder import Folder
    from beam_pipelines.sources.img2dataset import Img2Dataset
    from beam_pipelines.sources.parquet import Parquet
    from beam_pipelines.sources.tfds import Tfds
    from beam_pipelines.sources.webdataset import WebDataset

    fields = fields or {}
    formats: dict[str, Callable[[], Source]] = {
        "webdataset": WebDataset,
        "img2dataset": lambda: Img2Dataset(Fields(**{"text": "caption"} | dict(fields))),
        "parquet": lambda: Parquet(Fields(**fields)),
        "tfds": lambda: Tfds(Fields(**fields)),
        "folder": Folder,
    }
    name, separator, address = source.partition(":")
    if not separator or name not in formats or not address:
        raise ConfigError(
            f"source is {source!r}; it must be FORMAT:ADDRESS with FORMAT one of {', '.join(formats)}, "
            "for instance webdataset:/data/train-*.tar"
        )
    named = NAMED_FIELDS.get(name, ())
    if fixed := [field for field in fields if field not in named]:
        takes = ", ".join(f"--{field}_field" for field in named) or "none"
        raise ConfigError(
            f"{fixed[0]}_field is {fields[fixed[0]]!r}, and {name}: has no names for it (it takes {takes})"
        )
    return formats[name](), address


# Which parts of a pair have a name of their own in which formats.
NAMED_FIELDS = {
    "parquet": ("image", "text", "language", "url"),
    "tfds": ("image", "text", "language", "url"),
    "img2dataset": ("text", "language", "url"),
}


def expand(pattern: str) -> list[tuple[str, str]]:
    """Expands a glob, and ranges such as {00000..00099}; returns sorted (path, path relative to what has no wildcards).

    Raises:
      DataError: nothing matches, or nothing matches for one number of a range.
    """
    if ranges := list(_RANGE.finditer(pattern)):
        return _expand_range(pattern, ranges[0])
    if storage.is_remote(pattern):
        import fsspec

        filesystem, key = fsspec.core.url_to_fs(pattern)
        paths = sorted(filesystem.unstrip_protocol(p) for p in filesystem.glob(key))
    else:
        pattern = os.path.abspath(os.path.expanduser(pattern))
        paths = sorted(p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
    if not paths:
        raise DataError(f"no file matches {pattern}: check the path and quote the wildcards from the shell")
    root = os.path.dirname(pattern[: min(_wildcard(pattern), len(pattern))] + "x")
    return [(path, os.path.relpath(path, root) if path.startswith(root) else path) for path in paths]


_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LARGEST_RANGE = 10_000_000


def _expand_range(pattern: str, found: re.Match[str]) -> list[tuple[str, str]]:
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < _LARGEST_RANGE:
        raise DataError(f"the range {found[0]} in {pattern} must count upwards, to at most {_LARGEST_RANGE:,} files")
    root = os.path.dirname(pattern[: min(_wildcard(pattern), found.start())] + "x")
    if not storage.is_remote(pattern):
        root = os.path.abspath(os.path.expanduser(root))
    paths: list[str] = []
    for number in range(int(first), int(last) + 1):
        width = len(first) if len(first) == len(last) else 0
        paths += [path for path, _ in expand(f"{pattern[: found.start()]}{number:0{width}d}{pattern[found.end() :]}")]
    return [(path, os.path.relpath(path, root) if path.startswith(root) else path) for path in paths]


def _wildcard(pattern: str) -> int:
    return min([pattern.index(c) for c in "*?[" if c in pattern], default=len(pattern))


def captions(record: object) -> list[str] | None:
    """Finds the texts in a JSON record: `captions` (a list), or `text` or `caption`; None if there are none."""
    if not isinstance(record, dict):
        return None
    found = record.get("captions", record.get("text", record.get("caption")))
    if isinstance(found, str):
        return [found]
    if isinstance(found, list) and all(isinstance(c, str) for c in found):
        return found or None
    return None


def text_field(record: dict[str, object], *names: str, default: str = "") -> str:
    """Returns the first of a JSON record's fields that is a string with something in it."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value:
            return value
    return default


def expand_captions(source: str, image: bytes, texts: list[str], record: dict[str, object]) -> Iterator[RawPair]:
    """Yields a pair for every caption of an image, with the language and url that the record gives."""
    language, url = text_field(record, "language", "lang", default="und"), text_field(record, "url")
    for text in texts:
        yield RawPair(source=source, image=image, text=text, language=language, url=url)
