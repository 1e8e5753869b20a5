"""Shards: what is written is read, damage is an error, the first commit wins."""

import pickle

import pytest

from schemas import manifest, records, shards, storage
from schemas.errors import ConfigError, IntegrityError


def row(uid: str) -> bytes:
    return records.encode_embedding(
        records.Embedding(uid=uid, valid=True, image_embedding=b"\0\1", text_embedding=b"\2\3")
    )


ROWS = [row(f"{i:032x}") for i in range(10)]


def test_rows_come_back_in_any_order(tmp_path):
    written = shards.write_shard(tmp_path / "s", ROWS)
    assert not written.adopted
    assert written.shard.rows == 10
    with shards.ShardReader(tmp_path / "s", 10) as reader:
        assert reader.read([7, 0, 7]) == [ROWS[7], ROWS[0], ROWS[7]]
        assert reader.read([]) == []
        assert reader.read_range(3, 5) == ROWS[3:5]
    assert list(shards.read_all(tmp_path / "s", 10, batch=3)) == ROWS


def test_no_temporary_file_stays(tmp_path):
    shards.write_shard(tmp_path / "s", ROWS)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_failing_writer_leaves_nothing(tmp_path):
    def rows():
        yield ROWS[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        shards.write_shard(tmp_path / "s", rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row_index", [-1, 10])
def test_rows_outside_are_refused(tmp_path, row_index):
    shards.write_shard(tmp_path / "s", ROWS)
    with shards.ShardReader(tmp_path / "s", 10) as reader, pytest.raises(IntegrityError, match=r"rows 0 … 9"):
        reader.read([row_index])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1]])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "s"
    shards.write_shard(path, ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=str(path)):
        list(shards.read_all(path, 10))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(IntegrityError, match="missing, truncated"):
        shards.ShardReader(tmp_path / "s", 10)


def test_another_row_count_is_an_error(tmp_path):
    shards.write_shard(tmp_path / "s", ROWS)
    with pytest.raises(IntegrityError, match="has 10 readable rows and 11 were promised"):
        shards.ShardReader(tmp_path / "s", 11)


def test_the_first_commit_wins_and_the_second_adopts_it(tmp_path):
    first = shards.write_shard(tmp_path / "s", ROWS)
    second = shards.write_shard(tmp_path / "s", ROWS)
    assert second.adopted
    assert second.shard == first.shard


def test_other_rows_under_the_same_name_are_refused(tmp_path):
    shards.write_shard(tmp_path / "s", ROWS)
    with pytest.raises(IntegrityError, match="another job wrote here"):
        shards.write_shard(tmp_path / "s", ROWS[::-1])
    with pytest.raises(IntegrityError, match="has 10 readable rows and 9"):
        shards.write_shard(tmp_path / "s", ROWS[:9])


def test_global_rows_span_shards_and_readers_pickle(tmp_path):
    described = []
    for k, part in enumerate((ROWS[:4], ROWS[4:5], ROWS[5:])):
        described.append(shards.write_shard(tmp_path / f"s{k}", part).shard)
    reader = shards.DatasetReader(str(tmp_path), described)
    assert len(reader) == 10
    wanted = [9, 0, 4, 3, 5]
    assert reader.read(wanted) == [ROWS[i] for i in wanted]
    assert pickle.loads(pickle.dumps(reader)).read(wanted) == [ROWS[i] for i in wanted]
    with pytest.raises(ConfigError, match="row 10"):
        reader.read([10])


def test_names_follow_tfds():
    dataset = manifest.DatasetInfo(name="web", split="train")
    assert shards.shard_name(dataset, 3, 32) == "web-train.array_record-00003-of-00032"


def test_write_once_keeps_the_first(tmp_path):
    assert storage.write_once(tmp_path / "a" / "f", b"1")
    assert not storage.write_once(tmp_path / "a" / "f", b"2")
    assert (tmp_path / "a" / "f").read_bytes() == b"1"
