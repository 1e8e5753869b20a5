"""Opening a source's files, so that what a disk or a store fails to give is not taken for what is in the data.

A format's parser raises for damage: that is a rejection, and the job goes on. A file system raises because a store gave
up after its retries, a disk failed, or something may not be read: that says nothing of the rows, which would be lost
without anyone knowing. So it stops the job (a runner such as Dataflow tries the task again), and a rerun goes on there.
Parsers raise OSError too, and let through what a file raises; therefore the two are told apart where bytes are read.
"""

import errno
import io
import os
from http import HTTPStatus
from typing import Any

from schemas import storage
from schemas.errors import DataError

_NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)


def open_file(path: "str | os.PathLike[str]") -> io.BufferedReader:
    """Opens a file of a source, locally or on `gs://`.

    Raises:
      DataError: it cannot be opened or, later, read.
    """
    try:
        file = storage.as_path(path).open("rb")
    except Exception as error:
        raise _unread(path, error) from error
    return io.BufferedReader(_Told(file, path))


def read_named(path: "str | os.PathLike[str]") -> bytes | None:
    """Reads a file that the data names; returns None if there is none, or if nothing can have such a name.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return storage.as_path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None
    except Exception as error:
        if getattr(error, "errno", None) in _NO_SUCH_NAME or getattr(error, "code", None) == HTTPStatus.BAD_REQUEST:
            return None
        raise _unread(path, error) from error


class _Told(io.RawIOBase):
    """An open file whose failures are told as the file system's, whatever parser is reading it."""

    def __init__(self, file: Any, path: "str | os.PathLike[str]"):
        self._file = file
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            return self._file.readinto(buffer)
        except Exception as error:
            raise _unread(self._path, error) from error

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return self._file.seek(offset, whence)
        except Exception as error:
            if getattr(error, "errno", None) == errno.EINVAL:  # no file has such a place: what named it is damaged
                raise
            raise _unread(self._path, error) from error

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def _unread(path: "str | os.PathLike[str]", error: Exception) -> DataError:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return DataError(f"{os.fspath(path)} could not be read ({said}): run the job again, finished parts are kept")
