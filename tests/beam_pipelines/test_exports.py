"""What an export's files hold where the miniature cannot show it: hostile uids, JPEGs, many rows, the framing."""

import io
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.io.tfrecordio import _TFRecordUtil

from beam_pipelines import exports, tfrecord
from beam_pipelines.rights import Rights
from schemas import index, records
from schemas import manifest as manifests
from schemas.errors import IntegrityError
from tests.conftest import picture

PNG = picture(0)


def record(number: int = 0, *, uid: str | None = None, image: bytes = PNG, selection: bool = False) -> bytes:
    return records.encode_example(
        records.Example(
            image=image, text=f"thing number {number}", uid=uid or f"{number:032x}", image_id="i", language="en",
            url="", source="s", width=32, height=32,
            selection=records.Selection(visits=1, first_step=0, last_step=0, learnability=0.5) if selection else None,
        )
    )  # fmt: skip


def task_of(rows: int, index: int = 0, first: int = 0) -> exports.Task:
    return exports.Task(index, manifests.Shard(name=f"d-train-{index}", rows=rows, bytes=0, sha256=""), first)


def dataset_of(rows: int, shards: int = 1, kind="corpus") -> exports.Dataset:
    return exports.Dataset(
        directory="d", info=manifests.DatasetInfo(name="d", split="train"), version="1.0.0", row_kind=kind,
        shards=shards, rows=rows,
        origin=exports.Origin(name="d", version="1.0.0", fingerprint="f", rights=Rights()),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["webdataset", "uids", "parquet"])
@pytest.mark.parametrize("uid", ["../../../etc/passwd", "A" * 32, "0" * 31, "0" * 32 + "\n"])
def test_a_uid_that_is_none_becomes_no_file_name(tmp_path, kind, uid):
    with pytest.raises(IntegrityError, match=r"d-train-0 row 1: uid is .*; it must be 32 hex digits"):
        exports.of(kind).write(tmp_path / "f", dataset_of(2), task_of(2), [record(), record(uid=uid)])


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("corpus", record(selection=True), "has the features of a curated row, and features.json those of corpus rows"),
        ("curated", record(), "has the features of a corpus row, and features.json those of curated rows"),
        ("corpus", b"\xff", "d-train-0 row 0: record is not a tf.train.Example"),
    ],
)
def test_rows_of_another_dataset_are_refused(tmp_path, kind, row, words):
    with pytest.raises(IntegrityError, match=words):
        exports.of("parquet").write(tmp_path / "f", dataset_of(1, kind=kind), task_of(1), [row])


def test_members_are_named_by_what_the_image_is(tmp_path):
    jpeg = picture(1, kind="JPEG")
    rows = [record(0), record(1, image=jpeg)]
    exports.of("webdataset").write(tmp_path / "t.tar", dataset_of(2), task_of(2), rows)
    with tarfile.open(tmp_path / "t.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
        described = {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in tar}
    uids = [f"{number:032x}" for number in range(2)]
    wanted = [
        f"{uids[0]}.png",
        f"{uids[0]}.txt",
        f"{uids[0]}.json",
        f"{uids[1]}.jpg",
        f"{uids[1]}.txt",
        f"{uids[1]}.json",
    ]
    assert list(members) == wanted
    assert members[f"{uids[1]}.jpg"] == jpeg
    assert described == {(0, 0o644, 0, 0, "", "")}
    with pytest.raises(IntegrityError, match=f"the image of {uids[0]} is neither JPEG nor PNG; it begins with 474946"):
        exports.of("webdataset").write(tmp_path / "u.tar", dataset_of(1), task_of(1), [record(image=b"GIF89a")])


def test_uids_are_sorted_as_numbers_whatever_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    halves = ["0" * 16, "0" * 15 + "1", "f" * 16, "00ff" * 4, "7f" * 8, "80" + "0" * 14]
    uids = [a + b for a in halves for b in halves]
    rng.shuffle(uids)
    (tmp_path / ".work").mkdir()
    to, dataset, written = exports.of("uids"), dataset_of(len(uids), shards=2), []
    for number, part in enumerate((uids[:7], uids[7:])):
        path = tmp_path / to.shard_name(dataset, number)
        to.write(path, dataset, task_of(len(part), number), [record(uid=uid) for uid in part])
        written.append(manifests.Shard(name=path.name, rows=len(part), bytes=path.stat().st_size, sha256=""))
    to.complete(str(tmp_path), dataset, written)
    found = np.load(tmp_path / "uids.npy")
    assert found.dtype == np.dtype("u8,u8")
    assert found.tolist() == sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids)
    (tmp_path / to.shard_name(dataset, 1)).write_bytes(b"short")
    with pytest.raises(IntegrityError, match="uids-00001 has 5 bytes, and 29 uids were due"):
        to.complete(str(tmp_path), dataset, written)


def test_a_table_has_row_groups_and_goes_on_counting_where_the_shard_before_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_BATCH_ROWS", 8)
    monkeypatch.setattr(index, "_GROUP_ROWS", 16)
    rows = [record(number) for number in range(37)]
    exports.of("parquet").write(tmp_path / "p", dataset_of(137), task_of(37, 1, first=100), iter(rows))
    file = pq.ParquetFile(tmp_path / "p")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [16, 16, 5]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    table = file.read()
    assert table["row"].to_pylist() == list(range(100, 137))
    assert table["row_in_shard"].to_pylist() == list(range(37))
    assert table["text"].to_pylist() == [f"thing number {number}" for number in range(37)]


def test_what_is_framed_here_beam_reads_and_what_beam_frames_is_read_here():
    rows = [b"", b"a", bytes(range(256)) * 300]
    ours, theirs = io.BytesIO(), io.BytesIO()
    for row in rows:
        tfrecord.write(ours, row)
        _TFRecordUtil.write_record(theirs, row)
    assert ours.getvalue() == theirs.getvalue()
    ours.seek(0)
    assert [_TFRecordUtil.read_record(ours) for _ in rows] == rows
    theirs.seek(0)
    assert list(tfrecord.read(io.BufferedReader(theirs), 3, 1 << 20)) == list(enumerate(rows))
