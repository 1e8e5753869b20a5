"""Files that are complete or absent, on local disks and object stores alike.

Everything durable is made in two moves: write a temporary file, then commit it under its final name *only if
that name is still free*. The first commit wins; whoever comes second is told so and decides what that means.
Locally the commit is a hard link (atomic, fails if the name exists); on `gs://` it is an upload with the
precondition "this object does not exist". Paths are `etils.epath` paths, which speak both.
"""

import errno
import functools
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

# epath would otherwise reach gs:// through TensorFlow, which takes half a minute to import.
os.environ.setdefault("EPATH_USE_TF", "false")
# gcsfs would otherwise ask Google's gRPC service for the kind of every bucket, which needs a permission of its own.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
from etils import epath

from schemas import access

_CHUNK = 1 << 20
TEMPORARY_PREFIX = ".tmp-"
WORK_DIRECTORY = ".work"  # of a job, in its output


def as_path(path: "str | os.PathLike[str]") -> epath.Path:
    """Returns a path that opens locally or on `gs://`, with `~` expanded."""
    if is_remote(path):
        _list_anew()
    return epath.Path(path).expanduser()


@functools.cache
def _list_anew() -> None:
    """Makes fsspec ask the store each time: it would keep a listing for good, and others write there meanwhile."""
    from fsspec import config

    for protocol in ("gs", "gcs"):
        config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def absolute(path: "str | os.PathLike[str]") -> str:
    """Returns how other artifacts refer to this path: absolute locally, unchanged on an object store."""
    text = os.fspath(path)
    return text.rstrip("/") if is_remote(text) else os.path.abspath(os.path.expanduser(text))


def overlap(one: str, other: str) -> bool:
    """Says whether two directories are the same, or one of them lies in the other."""
    first, second = (f"{absolute(path)}/" for path in (one, other))
    return first.startswith(second) or second.startswith(first)


def is_remote(path: "str | os.PathLike[str]") -> bool:
    """Says whether the path names an object store rather than a local file."""
    return "://" in os.fspath(path)


def read_bytes(path: "str | os.PathLike[str]") -> bytes:
    """Reads a small file whole.

    Raises:
      DataError: it is in a bucket that cannot be used. Other errors are the file system's own.
    """
    access.check(path)
    return as_path(path).read_bytes()


def is_npz(path: str) -> bool:
    """Says whether a model's path names a file of parameters rather than a workdir."""
    return path.endswith(".npz")


def hash_file(path: "str | os.PathLike[str]") -> tuple[int, str]:
    """Returns (size in bytes, sha256 hex digest) of a file, read once in 1 MiB pieces."""
    access.check(path)
    digest, size = hashlib.sha256(), 0
    with as_path(path).open("rb") as file:
        while chunk := cast(bytes, file.read(_CHUNK)):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def temporary_file(destination: "str | os.PathLike[str]") -> Iterator[Path]:
    """Gives a local path to write to, near the destination where that is local; removes it afterwards."""
    name = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    if is_remote(destination):
        folder = Path(tempfile.mkdtemp(prefix="superbatch-"))
        try:
            yield folder / name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    folder = Path(destination).expanduser().parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    try:
        yield path
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:  # as write() raises it
            raise OSError(error.errno, error.strerror, os.fspath(destination)) from error
        raise
    finally:
        path.unlink(missing_ok=True)


def commit(temporary: Path, destination: "str | os.PathLike[str]") -> bool:
    """Publishes a finished temporary file under its final name, if that name is free.

    Returns:
      True if this call made the destination, False if it was there already (and is left untouched).
    """
    if is_remote(destination):
        return _commit_remote(temporary, os.fspath(destination))
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    destination = os.path.expanduser(destination)
    try:
        os.link(temporary, destination)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        # A file system without hard links: the check and the rename are two moves, the best it offers.
        if os.path.exists(destination):
            return False
        os.rename(temporary, destination)
    return True


def _commit_remote(temporary: Path, destination: str) -> bool:
    import fsspec

    access.check(destination)
    filesystem, key = fsspec.core.url_to_fs(destination)
    try:
        filesystem.put_file(str(temporary), key, mode="create")
    except FileExistsError:
        return False
    return True


def write_once(destination: "str | os.PathLike[str]", content: bytes) -> bool:
    """Commits `content` under a name that must be free; returns False if it was taken."""
    with temporary_file(destination) as temporary:
        temporary.write_bytes(content)
        return commit(temporary, destination)


def replace(destination: "str | os.PathLike[str]", content: bytes) -> None:
    """Writes a small file whole, replacing what was there: for files that may change before the manifest."""
    if is_remote(destination):
        access.check(destination)
        as_path(destination).write_bytes(content)
        return
    with temporary_file(destination) as temporary:
        temporary.write_bytes(content)
        os.replace(temporary, os.path.expanduser(destination))


class Journal:
    """A text file that grows by lines while a job runs, beginning with those given.

    Locally every line is on disk when `write` returns. An object store cannot append (gcsfs would silently replace what
    was there), so there the whole file is uploaded by `save` and `close`.
    """

    def __init__(self, path: "str | os.PathLike[str]", lines: Iterable[str]):
        self._path = path
        self._lines = list(lines)
        replace(path, "".join(self._lines).encode())
        self._file = None if is_remote(path) else as_path(path).open("a")

    def write(self, line: str) -> None:
        """Adds a line, which ends with a newline."""
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)
            self._file.flush()

    def save(self) -> None:
        """Makes sure that every line so far outlives the process."""
        if self._file is None:
            replace(self._path, "".join(self._lines).encode())

    def close(self) -> None:
        """Saves, and closes the file."""
        self.save()
        if self._file is not None:
            self._file.close()


def remove_tree(path: "str | os.PathLike[str]") -> None:
    """Removes a directory and all below it; a missing one is fine, and so is another process that does the same."""
    target = as_path(path)
    if not is_remote(path):
        shutil.rmtree(target, onerror=_unless_contended)
        return
    try:
        if target.exists():
            target.rmtree()
    except OSError:  # where another process was quicker with some of the objects, gcsfs says that they are not there
        if target.exists():
            raise


def _unless_contended(function: Any, path: str, raised: Any) -> None:
    """Lets pass what another process has removed, and a folder into which one still writes (it removes it itself)."""
    error = raised[1]
    if not isinstance(error, FileNotFoundError) and getattr(error, "errno", None) != errno.ENOTEMPTY:
        raise error


def remove_temporary(directory: "str | os.PathLike[str]") -> None:
    """Removes temporary files that killed attempts left below a directory; only when nobody writes there any more.

    Folders in which a job of their own is at work (they have a hidden working folder) are left alone. Object stores
    have none: files for them are written elsewhere, on the machine that sends them.
    """
    if not is_remote(directory):
        for folder, inside, names in os.walk(Path(directory).expanduser()):
            inside[:] = [name for name in inside if not Path(folder, name, WORK_DIRECTORY).exists()]
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    Path(folder, name).unlink(missing_ok=True)


def relative_files(directory: "str | os.PathLike[str]") -> list[str]:
    """Lists the files below a directory as sorted relative names; hidden files and folders are left out."""
    if is_remote(directory):
        return _relative_objects(os.fspath(directory))
    root = as_path(directory)
    found: list[str] = []
    stack = [(root, "")]
    while stack:
        folder, prefix = stack.pop()
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if entry.is_dir():
                stack.append((entry, name + "/"))
            else:
                found.append(name)
    return sorted(found)


def _relative_objects(directory: str) -> list[str]:
    """Lists a prefix in one go; the empty objects that consoles make for a folder are no files."""
    import fsspec

    access.check(directory)
    _list_anew()
    filesystem, key = fsspec.core.url_to_fs(directory.rstrip("/"))
    names = [str(found).removeprefix(f"{key}/") for found in filesystem.find(key)]
    hidden = [any(part.startswith(".") for part in name.split("/")) for name in names]
    return sorted(name for name, skip in zip(names, hidden, strict=True) if name and name[-1] != "/" and not skip)
