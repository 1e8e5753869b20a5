"""Where raw pairs come from: one file for each format, all of the same shape.

A source turns its address into tasks (`list_tasks`) and a task into raw pairs (`read`). A task is a file or a
range of one, small enough to be done again. Order matters: of exact duplicates, the first in task order is kept.
"""

import glob
import os
from collections.abc import Iterator
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


class Source(Protocol):
    """A format that `ingest` reads."""

    def list_tasks(self, address: str) -> list[Task]:
        """Cuts the source into tasks, in a fixed order."""
        ...

    def read(self, task: Task) -> Iterator[RawPair]:
        """Yields the pairs of a task, in a fixed order. Never raises for what is in the data."""
        ...


def parse(source: str) -> tuple[Source, str]:
    """Splits `format:address` and returns the format's source.

    Raises:
      ConfigError: the format is not known, or the address is empty.
    """
    from beam_pipelines.sources.folder import Folder
    from beam_pipelines.sources.webdataset import WebDataset

    formats: dict[str, Source] = {"webdataset": WebDataset(), "folder": Folder()}
    name, separator, address = source.partition(":")
    if not separator or name not in formats or not address:
        raise ConfigError(
            f"source is {source!r}; it must be FORMAT:ADDRESS with FORMAT one of {', '.join(formats)}, "
            "for instance webdataset:/data/train-*.tar"
        )
    return formats[name], address


def expand(pattern: str) -> list[tuple[str, str]]:
    """Expands a glob; returns sorted (path, path relative to the part of the pattern without wildcards).

    Raises:
      DataError: nothing matches.
    """
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
