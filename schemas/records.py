"""The two kinds of row, and their bytes: serialized `tf.train.Example`, exactly what TFDS reads and writes.

Enters: an `Example` or an `Embedding`. Leaves: its record, and back. The protocol-buffer classes come from TFDS,
which carries them without TensorFlow; `schemas/features.py` declares the same features to TFDS, and a test
holds the two together.
"""

import functools
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from schemas.errors import IntegrityError

_IMPORTING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the learner did with an example: the fields that a curated shard adds."""

    visits: int
    first_step: int
    last_step: int
    learnability: float  # mean over its picks of learner_nll − reference_nll, nats
    weight: float | None = None  # visits per offer over their mean in the dataset; of policy `weighted` only


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image-text pair as it is stored. `uid` and `image_id` are over the stored bytes."""

    image: bytes
    text: str
    uid: str
    image_id: str
    language: str  # BCP-47, or "und"
    url: str
    source: str  # the file and key it came from
    width: int  # pixels, as stored
    height: int
    selection: Selection | None = None


class Pair(NamedTuple):
    """What training reads of an example."""

    image: bytes
    text: str
    uid: str
    weight: float | None = None  # of rows that a curated set of policy `weighted` holds


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The reference's two unit vectors for one example, as little-endian raw bytes; zeros where not `valid`."""

    uid: str
    valid: bool
    image_embedding: bytes
    text_embedding: bytes


def encode_example(example: Example) -> bytes:
    """Serializes an example; equal examples give equal bytes."""
    fields: dict[str, Any] = {
        "image": example.image,
        "text": example.text.encode(),
        "uid": example.uid.encode(),
        "image_id": example.image_id.encode(),
        "language": example.language.encode(),
        "url": example.url.encode(),
        "source": example.source.encode(),
        "width": example.width,
        "height": example.height,
    }
    if example.selection is not None:
        s = example.selection
        fields |= {
            "selection/visits": s.visits,
            "selection/first_step": s.first_step,
            "selection/last_step": s.last_step,
            "selection/learnability": s.learnability,
        }
        if s.weight is not None:
            fields["selection/weight"] = s.weight
    return _serialize(fields)


def decode_example(record: bytes) -> Example:
    """Parses an example.

    Raises:
      IntegrityError: the record is not one, or lacks a feature.
    """
    fields = parse(record)
    try:
        selection = None
        if "selection/visits" in fields:
            selection = Selection(
                visits=_int(fields["selection/visits"]),
                first_step=_int(fields["selection/first_step"]),
                last_step=_int(fields["selection/last_step"]),
                learnability=_float(fields["selection/learnability"]),
                weight=_float(fields["selection/weight"]) if "selection/weight" in fields else None,
            )
        return Example(
            image=_bytes(fields["image"]),
            text=_bytes(fields["text"]).decode(),
            uid=_bytes(fields["uid"]).decode(),
            image_id=_bytes(fields["image_id"]).decode(),
            language=_bytes(fields["language"]).decode(),
            url=_bytes(fields["url"]).decode(),
            source=_bytes(fields["source"]).decode(),
            width=_int(fields["width"]),
            height=_int(fields["height"]),
            selection=selection,
        )
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise _not_an_example(fields, error) from None


def decode_pair(record: bytes) -> Pair:
    """Parses no more of an example than training needs, for less.

    Raises:
      IntegrityError: the record is not one, or lacks one of these features.
    """
    fields = parse(record)
    try:
        weight = _float(fields["selection/weight"]) if "selection/weight" in fields else None
        return Pair(_bytes(fields["image"]), _bytes(fields["text"]).decode(), _bytes(fields["uid"]).decode(), weight)
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise _not_an_example(fields, error) from None


def encode_embedding(embedding: Embedding) -> bytes:
    """Serializes an embedding row."""
    return _serialize(
        {
            "uid": embedding.uid.encode(),
            "valid": int(embedding.valid),
            "image_embedding": embedding.image_embedding,
            "text_embedding": embedding.text_embedding,
        }
    )


def decode_embedding(record: bytes) -> Embedding:
    """Parses an embedding row.

    Raises:
      IntegrityError: the record is not one, or lacks a feature.
    """
    fields = parse(record)
    try:
        return Embedding(
            uid=_bytes(fields["uid"]).decode(),
            valid=bool(_int(fields["valid"])),
            image_embedding=_bytes(fields["image_embedding"]),
            text_embedding=_bytes(fields["text_embedding"]),
        )
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise IntegrityError(f"record is not an embedding row: {error!r} (has {sorted(fields)})") from None


def record_uid(record: bytes) -> str:
    """Returns the uid of a row of either kind."""
    fields = parse(record)
    try:
        return _bytes(fields["uid"]).decode()
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise IntegrityError(f"record has no uid: {error!r} (has {sorted(fields)})") from None


def pack_vector(vector: np.ndarray, dtype: str) -> bytes:
    """Returns a vector's little-endian bytes in `dtype`; bfloat16 rounds to nearest even."""
    return np.ascontiguousarray(vector.astype(_numpy_dtype(dtype))).tobytes()


def unpack_vectors(rows: list[bytes], dtype: str, width: int) -> np.ndarray:
    """Returns stored vectors as a float32 array [rows, width], renormalised to unit length.

    Rounding to 16 bits moves a vector off the unit sphere; zero vectors (invalid rows) stay zero.

    Raises:
      IntegrityError: a row has another width than the manifest says.
    """
    vectors = as_stored(rows, dtype, width)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def as_stored(rows: list[bytes], dtype: str, width: int) -> np.ndarray:
    """Returns stored vectors as they are, widened to float32 [rows, width].

    Raises:
      IntegrityError: a row has another width than the manifest says.
    """
    stored = _numpy_dtype(dtype)
    expected = width * stored.itemsize
    for i, row in enumerate(rows):
        if len(row) != expected:
            raise IntegrityError(f"embedding {i} has {len(row)} bytes; {width} × {dtype} needs {expected}")
    return np.frombuffer(b"".join(rows), dtype=stored).reshape(len(rows), width).astype(np.float32)


def _numpy_dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")


@functools.cache
def _example_class() -> Any:
    # TFDS imports its parts lazily, under a lock of its own beside Python's: two threads that begin at once can each
    # hold one and wait for the other for good.
    with _IMPORTING:
        from tensorflow_datasets.proto import tf_example_pb2

        return tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]


def _serialize(fields: dict[str, Any]) -> bytes:
    message = _example_class()()
    features = message.features.feature
    for name, value in fields.items():
        if isinstance(value, bytes):
            features[name].bytes_list.value.append(value)
        elif isinstance(value, int):
            features[name].int64_list.value.append(value)
        else:
            features[name].float_list.value.append(value)
    return message.SerializeToString(deterministic=True)


def parse(record: bytes) -> Any:
    """Returns the features of a serialized `tf.train.Example`: a map from their names.

    Raises:
      IntegrityError: the record is not one.
    """
    try:
        return _example_class().FromString(record).features.feature
    except DecodeError as error:
        raise IntegrityError(f"record is not a tf.train.Example: {error}") from None


def _not_an_example(fields: Any, error: Exception) -> IntegrityError:
    return IntegrityError(f"record is not an example of a corpus: {error!r} (has {sorted(fields)})")


def _bytes(feature: Any) -> bytes:
    return feature.bytes_list.value[0]


def _int(feature: Any) -> int:
    return feature.int64_list.value[0]


def _float(feature: Any) -> float:
    return feature.float_list.value[0]
