"""Who an example is, and in which order it stands.

Enters: image bytes and text. Leaves: a `uid` (128-bit BLAKE2b of image bytes + NUL + NFC text, 32 hex
digits), an `image_id` (likewise of the image alone), and the keyed order that shuffles a corpus once.
"""

import hashlib
import json
import unicodedata
from pathlib import PurePath
from typing import Any

UID_HEX_DIGITS = 32


def normalise_text(text: str) -> str:
    """Returns the text in Unicode NFC, the form under which it is stored and hashed."""
    return unicodedata.normalize("NFC", text)


def example_uid(image: bytes, text: str) -> str:
    """Returns the uid of an image-text pair: 32 lower-case hex digits."""
    digest = hashlib.blake2b(image, digest_size=16)
    digest.update(b"\0")
    digest.update(normalise_text(text).encode())
    return digest.hexdigest()


def image_identity(image: bytes) -> str:
    """Returns the `image_id`: the same for every pair that shares the stored image bytes."""
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def keyed_order(uid: str, seed: int) -> int:
    """Returns a 64-bit integer that orders uids at random, differently for every seed.

    A row's place depends on its uid and the seed alone, so that neither the number of workers nor the order
    in which files were read can move it.
    """
    key = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8, key=key).digest(), "big")


def shard_of(order: int, shards: int) -> int:
    """Returns the shard that owns a 64-bit order: equal ranges of the hash, so shards concatenate in order."""
    return (order * shards) >> 64


def canonical_json(value: Any) -> bytes:
    """Returns the one JSON encoding of a value: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
      ValueError: for NaN or infinities, which JSON does not have.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    ).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form: {value!r}")
