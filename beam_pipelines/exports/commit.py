"""Committing an export's files: the first one stands, and whoever comes second checks that it is the same.

An export's bytes depend on its dataset alone, so a file that is there already is compared by its hash. Reading the
dataset again only to learn the hash would be the work once more; so a file's receipt, written when it has been
committed, says what it must be, and a rerun does nothing but hash it.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from schemas import manifest as manifests
from schemas import storage
from schemas.errors import IntegrityError

_SHOWN_DIGITS = 12


def commit_once(path: storage.epath.Path, rows: int, write: Callable[[Path], None]) -> manifests.Shard:
    """Writes a file of so many rows and commits it, or adopts the one that is there if it is equal, byte for byte.

    Args:
      path: where it shall lie.
      rows: for its description.
      write: writes a local file.

    Raises:
      IntegrityError: another one is there.
    """
    with storage.temporary_file(path) as temporary:
        write(temporary)
        size, digest = storage.hash_file(temporary)
        if not storage.commit(temporary, path) and (found := storage.hash_file(path)[1]) != digest:
            raise _other(path, found, digest)
    return manifests.Shard(name=path.name, rows=rows, bytes=size, sha256=digest)


def take_up(path: storage.epath.Path, receipt: storage.epath.Path) -> manifests.Shard | None:
    """Describes the file that an earlier attempt committed and left a receipt for; None if there is no such file.

    Raises:
      IntegrityError: it is not what the receipt says.
    """
    if not receipt.exists():
        return None
    try:
        recorded = manifests.Shard.model_validate_json(receipt.read_bytes())
        found = storage.hash_file(path)[1]
    except (ValidationError, FileNotFoundError):
        return None
    if found != recorded.sha256:
        raise _other(path, found, recorded.sha256)
    return recorded


def leave_receipt(receipt: storage.epath.Path, shard: manifests.Shard) -> None:
    """Notes what a committed file is."""
    storage.replace(receipt, shard.model_dump_json().encode())


def _other(path: storage.epath.Path, found: str, wanted: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is there with other content: its sha256 is {found[:_SHOWN_DIGITS]}, and this dataset gives "
        f"{wanted[:_SHOWN_DIGITS]}. Delete it and run again, or choose another --output"
    )
