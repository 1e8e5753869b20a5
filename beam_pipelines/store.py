"""Where a dataset is published to: a folder or a bucket, behind the few moves that publishing makes.

A file is created only where there is none, and never overwritten; the store itself says its size and CRC32C; and one
small file, an alias, is replaced only if it is still the one that was read. In a bucket these are preconditions on an
object's generation, which Google's client sends with its own checksums. In a folder they are a hard link, and a lock
that the system takes back when its holder dies.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import google_crc32c

from schemas import access, storage
from schemas.errors import ConfigError

ABSENT = ""  # the generation of a file that is not there
_CHUNK = 1 << 20
_GS = "gs://"


@dataclass(frozen=True)
class Stored:
    """What a store says of a file: its size in bytes, and its CRC32C as Google writes it (base64, big-endian)."""

    size: int
    crc32c: str


@dataclass(frozen=True)
class Content:
    """A small file as it was when it was read."""

    content: bytes
    generation: str  # another one means that the file was replaced meanwhile


class Store(Protocol):
    """A folder or a prefix in a bucket; files are named by their path below it."""

    def url(self, name: str) -> str:
        """Returns a file's full path."""
        ...

    def create(self, name: str, file: Path) -> bool:
        """Puts a local file there if the name is free; returns False if it was taken, and leaves that untouched.

        Args:
          name: of the new file.
          file: from `storage.temporary_file(store.url(name))`; it is not looked at any more when this returns.
        """
        ...

    def describe(self, name: str) -> Stored | None:
        """Returns what is stored now, None if nothing is."""
        ...

    def read(self, name: str) -> Content | None:
        """Reads a small file, None if it is not there."""
        ...

    def replace(self, name: str, content: bytes, generation: str) -> bool:
        """Writes a small file if it still is of this generation (`ABSENT`: not there); else returns False."""
        ...

    def sizes(self) -> dict[str, int]:
        """Lists every file below, hidden ones too, with its size; only temporary files of publishers are left out."""
        ...


def at(root: str) -> Store:
    """Opens a place to publish to.

    Raises:
      DataError: the bucket cannot be used.
    """
    if not root.startswith(_GS):
        return Folder(root)
    access.check(root)
    return Bucket(root)


def check_address(field: str, root: str) -> None:
    """Checks that a path is one that `at` opens.

    Raises:
      ConfigError: naming the field, the value and what is allowed.
    """
    if not root or (storage.is_remote(root) and not re.match(_GS + "[^/]", root)):
        raise ConfigError(f"{field} is {root!r}; it must be gs://BUCKET/PREFIX or a local folder")
    parts = root.removeprefix(_GS).removesuffix("/").split("/")
    if storage.is_remote(root) and not {"", ".", ".."}.isdisjoint(parts):
        raise ConfigError(f"{field} is {root!r}; between two slashes of a bucket's prefix there must be a name")


def put(store: Store, name: str, content: bytes) -> bool:
    """Creates a small file from its content; returns False if the name was taken."""
    with storage.temporary_file(store.url(name)) as temporary:
        temporary.write_bytes(content)
        return store.create(name, temporary)


class Checksum:
    """CRC32C of bytes that come piece by piece, with their number."""

    def __init__(self) -> None:
        self._digest, self._size = google_crc32c.Checksum(), 0

    def update(self, piece: bytes) -> None:
        """Adds bytes."""
        self._digest.update(piece)
        self._size += len(piece)

    def stored(self) -> Stored:
        """Returns what a store should say of these bytes."""
        return Stored(self._size, base64.b64encode(self._digest.digest()).decode())


class Folder:
    """A local folder."""

    def __init__(self, root: str):
        self._root = root

    def url(self, name: str) -> str:
        return f"{self._root}/{name}"

    def create(self, name: str, file: Path) -> bool:
        try:
            return storage.commit(file, self.url(name))
        except FileNotFoundError:
            if file.exists():
                raise
            return False  # another attempt has completed this version, and removed what was temporary: no name is free

    def describe(self, name: str) -> Stored | None:
        checksum = Checksum()
        try:
            with open(self.url(name), "rb") as file:
                while piece := file.read(_CHUNK):
                    checksum.update(piece)
        except FileNotFoundError:
            return None
        return checksum.stored()

    def read(self, name: str) -> Content | None:
        try:
            content = Path(self.url(name)).read_bytes()
        except FileNotFoundError:
            return None
        return Content(content, hashlib.sha256(content).hexdigest())

    def replace(self, name: str, content: bytes, generation: str) -> bool:
        path = Path(self.url(name))
        with _locked(path.parent):
            found = self.read(name)
            if (found.generation if found else ABSENT) != generation:
                return False
            storage.remove_temporary(path.parent)  # only the lock's holder writes here: killed ones left them
            with storage.temporary_file(path) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
        return True

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self._root):
            for path in (Path(folder, name) for name in names if not name.startswith(storage.TEMPORARY_PREFIX)):
                found[path.relative_to(self._root).as_posix()] = path.lstat().st_size
        return found


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a folder's lock. Its file stays; the lock goes with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Bucket:
    """A prefix in a bucket of Google Cloud Storage, or of an emulator that STORAGE_EMULATOR_HOST names."""

    def __init__(self, root: str):
        self._root = root
        self._bucket, _, prefix = root.removeprefix(_GS).partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def url(self, name: str) -> str:
        return f"{self._root}/{name}"

    def create(self, name: str, file: Path) -> bool:
        return self._upload(name, file, 0)

    def describe(self, name: str) -> Stored | None:
        with _told(self.url(name)):
            blob = _client().bucket(self._bucket).get_blob(self._prefix + name)
        return None if blob is None else Stored(blob.size, blob.crc32c)

    def read(self, name: str) -> Content | None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with _told(self.url(name)):
            while blob := _client().bucket(self._bucket).get_blob(self._prefix + name):
                # Replaced since it was looked up: look it up again.
                with contextlib.suppress(NotFound, PreconditionFailed):
                    content = blob.download_as_bytes(if_generation_match=blob.generation, checksum="crc32c")
                    return Content(content, str(blob.generation))
        return None

    def replace(self, name: str, content: bytes, generation: str) -> bool:
        with storage.temporary_file(self.url(name)) as temporary:
            temporary.write_bytes(content)
            return self._upload(name, temporary, int(generation or 0))

    def sizes(self) -> dict[str, int]:
        with _told(self._root):
            blobs = list(_client().list_blobs(self._bucket, prefix=self._prefix))
        # The empty objects that consoles make for a folder are no files.
        return {b.name.removeprefix(self._prefix): b.size for b in blobs if not b.name.endswith("/")}

    def _upload(self, name: str, file: Path, generation: int) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        blob = _client().bucket(self._bucket).blob(self._prefix + name)
        with _told(self.url(name)):
            try:
                blob.upload_from_filename(os.fspath(file), if_generation_match=generation, checksum="crc32c")
            except PreconditionFailed:
                return False
        return True


@functools.cache
def _client() -> Any:
    """One client a process, whose threads share it."""
    from google.cloud import storage as google_storage

    return google_storage.Client(project=None)  # which project pays does not matter: no bucket is made or listed


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Turns what Google's client raises into the system's errors, which the command line tells in one line."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    try:
        yield
    except GoogleAPICallError as error:
        refused = error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        kind = PermissionError if refused else OSError
        raise kind(f"{url}: the store answers {_reason(error)}") from None
    except (GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse, requests.RequestException) as error:
        raise OSError(f"{url}: {error}") from None


def _reason(error: Any) -> str:
    """The status and the store's own words, without the request."""
    try:
        words = error.response.json()["error"]["message"]
    except (AttributeError, ValueError, KeyError, TypeError):
        words = ""
    return f"{error.code} {words}".rstrip()
