"""Blocks: every row offered, none twice in a super-batch, the position a function of (seed, step)."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import policies
from schemas import manifest as manifests
from schemas import records, shards
from schemas.errors import ConfigError, IntegrityError
from tests.conftest import picture
from trainer import tokenizer
from trainer.cached_reference import CachedReference
from trainer.data import BlockLoader, Blocks, iterate


@given(rows=st.integers(1, 200), size=st.integers(1, 16), per_step=st.integers(1, 5), seed=st.integers(0, 99))
def test_an_epoch_offers_every_row_at_most_once_and_blocks_left_over_vary(rows, size, per_step, seed):
    if rows < per_step * size:
        with pytest.raises(ConfigError, match=f"takes {per_step * size} rows and the corpus has {rows}"):
            Blocks(rows, size, per_step, seed)
        return
    blocks = Blocks(rows, size, per_step, seed)
    offered = np.zeros(rows, int)
    ids = [block for step in range(blocks.steps_per_epoch) for block in blocks.of_step(step)]
    assert len(set(ids)) == len(ids) == blocks.steps_per_epoch * per_step
    for block in ids:
        found, own = blocks.rows_of(int(block))
        assert len(found) == size
        offered[found[own]] += 1
    assert offered.max() == 1
    assert (offered == 0).sum() <= (blocks.count % per_step) * size


@given(rows=st.integers(1, 200), size=st.integers(1, 16), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_rotating_blocks_are_whole_and_leave_out_different_rows(rows, size, seed, epoch):
    if rows < size:
        return
    blocks = Blocks(rows, size, 1, seed, rotate=True)
    steps = range(epoch * blocks.steps_per_epoch, (epoch + 1) * blocks.steps_per_epoch)
    offered = np.concatenate([blocks.rows_of(int(blocks.of_step(step)[0]), step)[0] for step in steps])
    assert len(set(offered.tolist())) == len(offered) == rows // size * size


def test_every_row_is_learned_from_in_some_epoch():
    blocks = Blocks(11, 4, 2, seed=0, rotate=True)
    seen = {
        int(row) for step in range(40) for block in blocks.of_step(step) for row in blocks.rows_of(int(block), step)[0]
    }
    assert seen == set(range(11))


def test_epochs_and_seeds_permute_anew_and_steps_are_pure():
    blocks = Blocks(640, 8, 4, seed=1)
    first = [blocks.of_step(s).tolist() for s in range(20)]
    again = [Blocks(640, 8, 4, seed=1).of_step(s).tolist() for s in reversed(range(20))][::-1]
    assert first == again
    assert first != [blocks.of_step(s + 20).tolist() for s in range(20)]
    assert first != [Blocks(640, 8, 4, seed=2).of_step(s).tolist() for s in range(20)]


def test_offers_count_the_rows_of_blocks_and_not_their_filling():
    import pyarrow as pa

    blocks = Blocks(rows=10, size=4, per_step=1, seed=0)
    superbatches = pa.table({"blocks": pa.array([[0, 2], [2]], pa.list_(pa.int64()))})
    expected = np.zeros(10, int)
    for block in (0, 2, 2):
        rows, own = blocks.rows_of(block)
        expected[rows[own]] += 1
    offered = np.flatnonzero(expected)
    zeros = pa.array(np.zeros(len(offered), np.float32))
    picks = pa.table(
        {
            "step": np.zeros(len(offered), np.int64), "row": offered, "uid": [str(row) for row in offered],
            "learner_nll": zeros, "reference_nll": zeros, "conditional": zeros,
        }
    )  # fmt: skip
    with policies.database() as connection:
        ranking = policies.rank(connection, picks.to_reader(), superbatches.to_reader(), 4, "visits")
        found = {row["row"]: row["visits_per_offer"] for block in ranking.blocks for row in block.to_pylist()}
    assert found == {row: 1 / expected[row] for row in offered}


@pytest.fixture
def corpus(tmp_path):
    """Thirteen rows in two shards, their embeddings, and a loader over both."""
    examples = [
        records.Example(
            image=picture(i), text=f"text {i}", uid=f"{i:032x}", image_id=f"{i:032x}", language="en", url="",
            source="s", width=32, height=32,
        )
        for i in range(13)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(13, 2, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)

    def write(name: str, rows: list[bytes]) -> shards.DatasetReader:
        parts = [
            shards.write_shard(tmp_path / f"{name}-{k}", part).shard for k, part in enumerate((rows[:6], rows[6:]))
        ]
        return shards.DatasetReader(str(tmp_path), parts)

    def embeddings(uids: list[str], valid: list[bool]) -> list[bytes]:
        return [
            records.encode_embedding(
                records.Embedding(
                    uid=uid, valid=ok,
                    image_embedding=records.pack_vector(v[0], "float32"),
                    text_embedding=records.pack_vector(v[1], "float32"),
                )
            )
            for uid, ok, v in zip(uids, valid, vectors, strict=True)
        ]  # fmt: skip

    info = manifests.EmbeddingInfo(
        dtype="float32", image_width=4, text_width=4, scale=1, bias=0, decoder="d", tokenizer_file="t",
        reference=manifests.ModelInfo(parameters="a", preprocessing="b", tokenizer="c"),
    )  # fmt: skip
    tokens = tokenizer.train((e.text for e in examples), 64, 8)

    def loader(name: str, uids: list[str] | None = None, valid: list[bool] | None = None) -> BlockLoader:
        rows = embeddings(uids or [e.uid for e in examples], valid or [True] * 13)
        return BlockLoader(
            corpus=write(f"corpus{name}", [records.encode_example(e) for e in examples]),
            blocks=Blocks(rows=13, size=4, per_step=3, seed=0),
            tokenizer=tokens,
            resolution=16,
            reference=CachedReference(write(f"embeddings{name}", rows), info),
        )

    return loader, vectors


def test_candidates_are_aligned_and_filling_is_not_valid(corpus):
    loader, vectors = corpus
    valid = [True] * 13
    valid[3] = False
    steps = iterate(loader("a", valid=valid), 0, 8, threads=2)
    step = next(step for step in steps if 12 in step["row"])  # of the block that is filled up
    assert step["image"].shape == (12, 16, 16, 3)
    assert step["tokens"].shape == (12, 8)
    filling = step["row"].tolist().index(12) + 1  # three rows after the corpus's last
    own = set(np.delete(step["row"], range(filling, filling + 3)).tolist())
    assert sorted(step["row"][step["valid"]].tolist()) == sorted(own - {3})
    np.testing.assert_allclose(step["reference_image"], vectors[step["row"], 0], atol=1e-6)
    np.testing.assert_allclose(step["reference_text"], vectors[step["row"], 1], atol=1e-6)
    assert step["uid"].tolist() == [f"{row:032x}" for row in step["row"]]


def test_rebuilt_iterators_go_on_where_they_were(corpus):
    whole = list(iterate(corpus[0]("a"), 0, 5, threads=2))
    rest = list(iterate(corpus[0]("b"), 3, 5, threads=1))
    assert len(whole) == 5
    for ours, theirs in zip(whole[3:], rest, strict=True):
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_augmentation_is_a_function_of_seed_and_step_whoever_reads(corpus):
    plain, augmented = corpus[0]("a"), dataclasses.replace(corpus[0]("b"), augment=True)
    whole, theirs = list(iterate(augmented, 0, 5, threads=2)), list(iterate(plain, 0, 5, threads=1))
    assert not any(np.array_equal(ours["image"], step["image"]) for ours, step in zip(whole, theirs, strict=True))
    parts = [dataclasses.replace(augmented, process=k, processes=3) for k in range(3)]
    shared = [list(iterate(part, 3, 5, threads=1)) for part in parts]
    for step in (3, 4):
        np.testing.assert_array_equal(np.concatenate([p[step - 3]["image"] for p in shared]), whole[step]["image"])


def test_every_rows_uid_is_compared(corpus):
    uids = [f"{i:032x}" for i in range(13)]
    uids[7] = "f" * 32
    with pytest.raises(IntegrityError, match=r"row 7 is 0+7 in the corpus and f+ in the embeddings .* not aligned"):
        list(iterate(corpus[0]("a", uids=uids), 0, 4, threads=1))


def test_the_tokenizer_is_sticky_lower_case_and_reproducible():
    texts = [f"a red circle number {i}" for i in range(50)]
    tokens = tokenizer.train(texts, 100, 6)
    assert tokens.model == tokenizer.train(texts, 100, 6).model
    ids = tokens(["A RED circle", "a red circle", "a red circle number 7 and many more words", ""])
    np.testing.assert_array_equal(ids[0], ids[1])
    assert (ids[:, -1] == tokenizer.END).all()
    assert (ids[3] == tokenizer.END).all()
    assert (ids[2, :-1] != tokenizer.END).all()


def test_a_tokenizer_that_is_none_is_refused(tmp_path):
    (tmp_path / "t.model").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="not a SentencePiece model"):
        tokenizer.load(str(tmp_path / "t.model"), 8)
    with pytest.raises(ConfigError, match="cannot be read"):
        tokenizer.load(str(tmp_path / "gone.model"), 8)
