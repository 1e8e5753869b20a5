"""`webdataset:GLOB`: tar files whose members share a key, `<key>.jpg` beside `<key>.json` or `<key>.txt`.

A JSON member holds `captions` (a list), or `caption` or `text`, and may hold `language` and `url`. A list of captions
makes one example per caption. Members of a key stand next to each other, as the format demands.
"""

import itertools
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from tarfile import (
    EmptyHeaderError,  # pyright: ignore[reportAttributeAccessIssue]
    InvalidHeaderError,  # pyright: ignore[reportAttributeAccessIssue]
    ReadError,
    TruncatedHeaderError,  # pyright: ignore[reportAttributeAccessIssue]
)

from beam_pipelines.sources import MAX_BYTES, RawPair, Task, captions, expand, expand_captions
from beam_pipelines.sources.reading import open_file
from schemas.rejections import Reason

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_Member = tuple[str, str, bytes | Reason]  # key, extension, content or why it is not read


class WebDataset:
    """Tar files, each one task, streamed."""

    def list_tasks(self, address: str) -> list[Task]:
        """One task for each tar file."""
        return [Task(index=i, path=path, name=name) for i, (path, name) in enumerate(expand(address))]

    def read(self, task: Task) -> Iterator[RawPair]:
        """Yields the pairs of one tar file; a damaged tar gives what stands before the damage, then a rejection."""
        for _, found in groups(task):
            if isinstance(found, RawPair):
                yield found
            else:
                yield from pairs(found)


@dataclass(frozen=True)
class Group:
    """The members of a tar that share a key: {extension: content}. `source` names tar and key."""

    source: str
    members: dict[str, bytes]


def groups(task: Task) -> Iterator[tuple[str, Group | RawPair]]:
    """Yields (key, its members, or what is wrong with them); at last what is wrong with the file, if anything is."""
    damage: list[str] = []
    for key, members in itertools.groupby(_members(task.path, damage), key=lambda member: member[0]):
        yield key, _group(f"{task.name}::{key}", list(members))
    for detail in damage:
        yield "", RawPair(source=task.name, problem=Reason.UNREADABLE_SOURCE, detail=detail)


def _members(path: str, damage: list[str]) -> Iterator[_Member]:
    """Yields a tar's members; what stops it goes into `damage`, so that the group before is not lost with it."""
    try:
        # Not as a stream (r|*), which would skip a member that lies about its size by reading, however far that is.
        with (
            open_file(path) as file,
            tarfile.open(fileobj=file, mode="r:*", tarinfo=_StrictTarInfo) as tar,
        ):
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.isdir():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                yield f"{folder}/{stem}" if folder else stem, extension.lower(), _content(tar, member)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        damage.append(f"{type(error).__name__}: {error}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | Reason:
    # A sparse member of a few bytes can promise gigabytes.
    if member.issparse() or member.size > MAX_BYTES:
        return Reason.FILE_TOO_LARGE
    content = tar.extractfile(member) if member.isreg() else None
    return content.read() if content else Reason.UNSAFE_PATH


class _StrictTarInfo(tarfile.TarInfo):
    """Reports a damaged header wherever it stands: tarfile takes one that is not the first for the end of the file."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tarfile)
        except (InvalidHeaderError, TruncatedHeaderError) as error:
            raise ReadError(f"damaged header at byte {tarfile.offset}: {error}") from None
        except EmptyHeaderError:
            raise ReadError(f"no end mark at byte {tarfile.offset}: the file may have been cut off") from None


def _group(source: str, members: list[_Member]) -> Group | RawPair:
    contents: dict[str, bytes] = {}
    for _, extension, content in members:
        if isinstance(content, Reason):
            what = f"over {MAX_BYTES} bytes" if content == Reason.FILE_TOO_LARGE else "a link or a device"
            return RawPair(source=source, problem=content, detail=f"{extension}: {what}")
        if extension in contents:
            return RawPair(source=source, problem=Reason.INVALID_RECORD, detail=f"two members .{extension}")
        contents[extension] = content
    return Group(source, contents)


def pairs(group: Group, known: Mapping[str, object] | None = None) -> Iterator[RawPair]:
    """Yields the pairs of one key.

    Args:
      group: its members.
      known: what is known of it from elsewhere; goes before what the JSON member says.
    """
    source, members = group.source, group.members
    image = next((members[extension] for extension in _IMAGES if extension in members), None)
    record: dict[str, object] = {}
    if "json" in members:
        try:
            parsed = json.loads(members["json"])
        except (ValueError, RecursionError) as error:
            yield RawPair(source=source, problem=Reason.INVALID_RECORD, detail=str(error))
            return
        record = parsed if isinstance(parsed, dict) else {}
    texts = captions(known) or captions(record)
    record |= known or {}
    if texts is None and "txt" in members:
        try:
            texts = [members["txt"].decode()]
        except UnicodeDecodeError as error:
            yield RawPair(source=source, problem=Reason.INVALID_TEXT, detail=str(error))
            return
    if image is None:
        yield RawPair(source=source, problem=Reason.MISSING_IMAGE, detail=f"members: {', '.join(sorted(members))}")
    elif texts is None:
        yield RawPair(source=source, problem=Reason.MISSING_TEXT, detail=f"members: {', '.join(sorted(members))}")
    else:
        yield from expand_captions(source, image, texts, record)
