"""Rows: our bytes are TFDS's bytes, identities are what the design says, vectors survive their dtypes."""

import builtins
import hashlib
import io
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from schemas import features, identity, records
from schemas.errors import IntegrityError
from tests.conftest import picture

IMAGE = picture(0)
EXAMPLE = records.Example(
    image=IMAGE, text="ein Häuschen", uid="0" * 32, image_id="1" * 32, language="de", url="https://example.org/a",
    source="a.tar::k", width=32, height=32,
)  # fmt: skip
SELECTED = records.Selection(visits=3, first_step=1, last_step=9, learnability=0.25)
WEIGHTED = replace(SELECTED, weight=1.5)


def as_fields(example: records.Example) -> dict:
    fields = {f: getattr(example, f) for f in example.__dataclass_fields__ if f != "selection"}
    if example.selection is not None:
        fields |= {f"selection/{f}": value for f, value in asdict(example.selection).items() if value is not None}
    return fields | {"image": io.BytesIO(example.image)}


@pytest.mark.parametrize(("kind", "selection"), [("corpus", None), ("curated", SELECTED), ("weighted", WEIGHTED)])
def test_examples_are_what_tfds_would_write(kind, selection):
    example = records.Example(**{**EXAMPLE.__dict__, "selection": selection})
    declared = features.declare(kind)
    theirs = declared.serialize_example(declared.encode_example(as_fields(example)))
    assert records.decode_example(theirs) == example
    weight = selection.weight if selection else None
    assert records.decode_pair(theirs) == (example.image, example.text, example.uid, weight)
    read = declared.deserialize_example_np(records.encode_example(example))
    assert read["text"].decode() == example.text
    assert read["image"].shape == (32, 32, 3)
    assert set(read) == set(declared)


def test_grey_pictures_read_as_three_channels():
    grey = records.Example(**{**EXAMPLE.__dict__, "image": picture(1, mode="L")})
    assert features.declare("corpus").deserialize_example_np(records.encode_example(grey))["image"].shape == (32, 32, 3)


def test_embeddings_are_what_tfds_would_write():
    row = records.Embedding(uid="a" * 32, valid=True, image_embedding=b"\0\1\2\3", text_embedding=b"\4\5\0\0")
    declared = features.declare("embeddings")
    theirs = declared.serialize_example(declared.encode_example(row.__dict__))
    assert records.decode_embedding(theirs) == row
    assert declared.deserialize_example_np(records.encode_embedding(row))["image_embedding"] == b"\0\1\2\3"


def test_serialisation_is_reproducible():
    assert records.encode_example(EXAMPLE) == records.encode_example(records.Example(**EXAMPLE.__dict__))
    assert records.record_uid(records.encode_example(EXAMPLE)) == EXAMPLE.uid


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b""])
def test_garbage_is_an_integrity_error(garbage):
    for decode in (records.decode_example, records.decode_pair, records.decode_embedding, records.record_uid):
        with pytest.raises(IntegrityError):
            decode(garbage)


def test_uid_is_blake2b_of_image_nul_text():
    expected = hashlib.blake2b(IMAGE + b"\0" + "é".encode(), digest_size=16).hexdigest()
    assert identity.example_uid(IMAGE, "e\N{COMBINING ACUTE ACCENT}") == expected
    assert identity.image_identity(IMAGE) == hashlib.blake2b(IMAGE, digest_size=16).hexdigest()


def test_keyed_order_spreads_evenly_and_shards_concatenate_in_order():
    orders = sorted(identity.keyed_order(str(i), seed=1) for i in range(4000))
    owners = [identity.shard_of(order, 8) for order in orders]
    assert owners == sorted(owners)
    counts = np.bincount(owners, minlength=8)
    # 7 degrees of freedom: the 99.9 % point of chi-square is 24.3.
    assert ((counts - 500) ** 2 / 500).sum() < 24.3
    assert [identity.keyed_order(str(i), 1) for i in range(5)] != [identity.keyed_order(str(i), 2) for i in range(5)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3), ("float32", 1e-7)])
def test_vectors_come_back_unit_norm(dtype, tolerance):
    vectors = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    packed = [records.pack_vector(v, dtype) for v in vectors]
    back = records.unpack_vectors(packed, dtype, 24)
    np.testing.assert_allclose(back, vectors, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)


def test_invalid_rows_stay_zero_and_widths_are_checked():
    zeros = records.unpack_vectors([records.pack_vector(np.zeros(4), "float16")], "float16", 4)
    assert not zeros.any()
    with pytest.raises(IntegrityError, match="has 8 bytes; 5 × float16 needs 10"):
        records.unpack_vectors([b"\0" * 8], "float16", 5)


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="Out of range float"):
        identity.canonical_json({"a": float("nan")})


def test_threads_import_what_rows_are_read_with_one_after_another(monkeypatch):
    """Two that began at once were seen to wait for each other for good, each inside the import of a lazy package."""
    inside, most = 0, 0
    ready, importing = threading.Barrier(8), builtins.__import__

    def watched(name, *rest):
        nonlocal inside, most
        if name != "tensorflow_datasets.proto":
            return importing(name, *rest)
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        return importing(name, *rest)

    def read():
        ready.wait()
        records._example_class()

    records._example_class.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", watched)
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1
