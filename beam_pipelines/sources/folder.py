"""`folder:DIR`: image files and a `captions.jsonl` that names them.

One JSON object a line: `file_name` (relative to the folder) and `text`, `caption` or a list of `captions`; `language`
and `url` if known. A line with a list makes one example per caption.
"""

import itertools
import json
from collections.abc import Iterator

from beam_pipelines.sources import RawPair, Task, captions, expand_captions
from beam_pipelines.sources.reading import open_file, read_named
from schemas import storage
from schemas.errors import DataError
from schemas.rejections import Reason

CAPTIONS_FILE = "captions.jsonl"
_LINES_PER_TASK = 1000


class Folder:
    """Ranges of lines of `captions.jsonl`, each one task."""

    def list_tasks(self, address: str) -> list[Task]:
        """One task for every thousand lines; `first` and `last` are byte offsets."""
        path = storage.as_path(address) / CAPTIONS_FILE
        if not path.exists():
            raise DataError(f"{path} does not exist: folder:DIR needs images and a {CAPTIONS_FILE} in DIR")
        offsets, position = [0], 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                position += len(line)
                if number % _LINES_PER_TASK == 0:
                    offsets.append(position)
        if offsets[-1] != position:
            offsets.append(position)
        if position == 0:
            raise DataError(f"{path} is empty: there is nothing to ingest")
        return [
            Task(index=i, path=str(path), name=CAPTIONS_FILE, first=first, last=last)
            for i, (first, last) in enumerate(itertools.pairwise(offsets))
        ]

    def read(self, task: Task) -> Iterator[RawPair]:
        """Yields the pairs of a range of lines. A row's source is the line's byte offset and the file it names."""
        with open_file(task.path) as file:
            file.seek(task.first)
            position = task.first
            while position < task.last:
                line = file.readline()
                source = f"{task.name}@{position}"
                if not line:
                    detail = f"the file ends before byte {task.last}: it changed while it was read"
                    yield RawPair(source=source, problem=Reason.UNREADABLE_SOURCE, detail=detail)
                    return
                position += len(line)
                if line.strip():
                    yield from _pairs(source, line, storage.as_path(task.path).parent)


def _pairs(source: str, line: bytes, folder: storage.epath.Path) -> Iterator[RawPair]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        yield RawPair(source=source, problem=Reason.INVALID_RECORD, detail=str(error))
        return
    name = record.get("file_name") if isinstance(record, dict) else None
    if not isinstance(name, str) or not name:
        yield RawPair(source=source, problem=Reason.MISSING_IMAGE, detail="the line has no file_name")
        return
    source = f"{source}::{name}"
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        yield RawPair(source=source, problem=Reason.UNSAFE_PATH, detail="file_name must lie inside the folder")
        return
    texts = captions(record)
    if texts is None:
        yield RawPair(source=source, problem=Reason.MISSING_TEXT, detail="the line has no text, caption or captions")
        return
    image = read_named(folder / name)
    if image is None:
        yield RawPair(source=source, problem=Reason.MISSING_IMAGE, detail="there is no such file")
        return
    yield from expand_captions(source, image, texts, record)
