"""img2dataset's output and prepared TFDS datasets: whatever they say of a pair ends as a pair, or as a rejection."""

import io
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from beam_pipelines import job, sources
from schemas import manifest as manifests
from schemas.errors import ConfigError, DataError
from schemas.rejections import Reason
from tests.beam_pipelines.test_sources import read
from tests.conftest import picture
from tests.raw import write_img2dataset, write_tar, write_tfds

IMAGE = picture(0)


def told(pairs: list[sources.RawPair]) -> list[tuple]:
    return [(p.source.split("::")[-1], p.text, p.language, p.url, p.problem) for p in pairs]


# --- img2dataset ------------------------------------------------------------------------------------------------------


def test_img2datasets_table_says_what_was_tried_and_what_it_is(tmp_path):
    rows = [
        {"image": IMAGE, "caption": "one", "url": "http://x/1", "language": "en"},
        {"caption": "gone", "error_message": "HTTP Error 404: Not Found"},
        {"image": IMAGE, "caption": None, "url": "http://x/3"},
        {"caption": "lost", "status": "success"},
        {"image": IMAGE, "caption": "five", "url": None, "language": None},
    ]
    found = read(f"img2dataset:{write_img2dataset(tmp_path, rows)}")
    assert told(found) == [
        ("000000000", "one", "en", "http://x/1", None),
        ("000000002", "", "und", "", Reason.MISSING_TEXT),
        ("000000004", "five", "und", "", None),
        ("000000001", "", "und", "", Reason.NOT_DOWNLOADED),
        ("000000003", "", "und", "", Reason.MISSING_IMAGE),
    ]
    assert found[3].detail == "failed_to_download: HTTP Error 404: Not Found; http://example.org/1.png"
    assert read(f"img2dataset:{tmp_path}/0000*.tar") == read(f"img2dataset:{tmp_path}/{{00000..00000}}.tar") == found


def test_img2datasets_columns_have_the_names_that_are_given(tmp_path):
    write_img2dataset(tmp_path, [{"image": IMAGE, "caption": "one", "alt": "two", "LANG": "fr"}])
    assert told(read(f"img2dataset:{tmp_path}", {"text": "alt", "language": "LANG"}))[0][1:3] == ("two", "fr")
    with pytest.raises(
        ConfigError, match=r"image_field is 'jpg', and img2dataset: has no names for it \(it takes --text"
    ):
        read(f"img2dataset:{tmp_path}", {"image": "jpg"})


def test_a_tar_and_its_table_that_do_not_agree_are_rejections(tmp_path):
    folder = write_img2dataset(tmp_path, [{"image": IMAGE, "caption": "one"}])
    write_img2dataset(folder, [{"image": IMAGE, "caption": "two"}, {"image": IMAGE, "caption": "three"}], "00001")
    table = pq.read_table(folder / "00001.parquet")
    pq.write_table(table.slice(0, 1), folder / "00001.parquet")
    write_tar(folder / "00002.tar", [("a.png", IMAGE), ("a.txt", b"unfinished")])
    (folder / "00003.tar").write_bytes(b"<html>")
    pq.write_table(table, folder / "00003.parquet")
    write_tar(folder / "00004.tar", [])
    (folder / "00004.parquet").write_bytes(b"PAR1")
    found = read(f"img2dataset:{folder}")
    assert [p.text for p in found if p.problem is None] == ["one", "two"]
    assert [(p.source, p.problem) for p in found if p.problem] == [
        ("00001.tar::000010001", Reason.INVALID_RECORD),
        ("00002.tar", Reason.UNREADABLE_SOURCE),
        ("00003.tar", Reason.UNREADABLE_SOURCE),
        ("00003.tar::000010000", Reason.MISSING_IMAGE),
        ("00003.tar::000010001", Reason.MISSING_IMAGE),
        ("00004.parquet", Reason.UNREADABLE_SOURCE),
    ]
    assert "has not finished this shard" in found[3].detail


def test_tars_without_any_table_are_webdatasets(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.png", IMAGE), ("a.txt", b"one")])
    with pytest.raises(DataError, match=r"0\.parquet does not exist: .* Tars alone are webdataset:"):
        read(f"img2dataset:{tmp_path}")
    (tmp_path / "0.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"0\.parquet cannot be read as img2dataset's"):
        read(f"img2dataset:{tmp_path}")


def test_what_was_never_downloaded_does_not_fail_a_job():
    lost = {Reason.NOT_DOWNLOADED: 60, Reason.NOT_AN_IMAGE: 2}
    counts = manifests.Counts(read=100, kept=38, rejected=lost)
    assert counts.rejected_fraction == 2 / 40
    job.check_rejected(counts, 0.05)
    with pytest.raises(DataError, match=r"5\.0% of 40 rows were rejected"):
        job.check_rejected(counts, 0.04)


# --- TFDS -------------------------------------------------------------------------------------------------------------


def features(**more):
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict({"image": tfds.features.Image()} | more)


def example(**more) -> dict:
    return {"image": io.BytesIO(IMAGE)} | more


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """As `coco_captions` is laid out: captions in a sequence of records."""
    import tensorflow_datasets as tfds

    text, folder = tfds.features.Text(), tmp_path_factory.mktemp("tfds") / "nested" / "1.0.0"
    captions = tfds.features.Sequence({"id": tfds.features.Scalar(np.int64), "text": text})
    kind = features(captions=captions, label=tfds.features.ClassLabel(names=["cat", "dog"]), url=text)
    train, test = (
        [
            example(captions=[{"id": 1, "text": "one"}, {"id": 2, "text": "zwei"}], label="dog", url="http://x"),
            example(captions=[], label="cat", url=""),
        ]
        for _ in range(2)
    )
    return write_tfds(folder, kind, {"train": [train], "test": [test[:1], test[1:]]})


def test_features_are_named_by_their_path(nested):
    assert told(read(f"tfds:{nested}@train", {"text": "captions/text"})) == [
        ("pairs-train.array_record-00000-of-00001@0", "one", "und", "http://x", None),
        ("pairs-train.array_record-00000-of-00001@0", "zwei", "und", "http://x", None),
        ("pairs-train.array_record-00000-of-00001@1", "", "und", "", Reason.MISSING_TEXT),
    ]
    assert [p.text for p in read(f"tfds:{nested}@test", {"text": "label"})] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("address", "fields", "words"),
    [
        ("{}", {"text": "captions/text"}, r"has the splits train, test: name one, as in tfds:.*@train"),
        ("{}@dev", {"text": "captions/text"}, "has the splits train, test"),
        ("{}@train", {}, "no feature 'text' that is a Text, a sequence of them, or a ClassLabel; its features are"),
        ("{}@train", {"text": "captions"}, "no feature 'captions' that is a Text"),
        ("{}@train", {"text": "captions/id"}, "no feature 'captions/id' that is a Text"),
        ("{}@train", {"text": "label", "image": "url"}, "no feature 'url' that is an Image"),
        ("{}/..", {}, "holds no features.json: name the directory"),
        ("/nowhere", {}, "holds no features.json: name the directory"),
        ("no_such_dataset", {}, "no_such_dataset is no TFDS dataset that can be read"),
    ],
)
def test_what_a_dataset_does_not_have_is_named(nested, address, fields, words):
    with pytest.raises(DataError, match=words):
        read(f"tfds:{address.format(nested)}", fields)


def test_a_corpus_is_a_tfds_dataset(miniature):
    for corpus in ("corpora/pool", "curated"):
        found = read(f"tfds:{miniature / corpus}")
        assert len(found) == manifests.read(str(miniature / corpus)).rows
        assert {(p.problem, p.language) for p in found} == {(None, "en")}


@pytest.mark.parametrize("suffix", ["array_record", "tfrecord"])
def test_damage_costs_a_shard_no_more_than_it_must(tmp_path, suffix):
    import tensorflow_datasets as tfds

    rows = [[example(text=f"{part} {i}") for i in range(5)] for part in range(4)]
    folder = write_tfds(tmp_path / "1.0.0", features(text=tfds.features.Text()), {"train": rows}, suffix)
    paths = sorted(folder.glob("pairs-train*"))
    if suffix == "tfrecord":
        content = paths[1].read_bytes()
        at, length = content.index(b"1 2"), len(content) // 5
        paths[1].write_bytes(content[:at] + b"X" + content[at + 1 :])  # the text of row 2
        content = paths[2].read_bytes()
        paths[2].write_bytes(content[: 3 * length] + b"\xff" + content[3 * length + 1 :])  # the length of row 3
        paths[3].write_bytes(paths[3].read_bytes()[: 4 * length + 20])
        lost = {(1, 2): "1 row", (2, 3): "rows 3 to 4", (3, 4): "rows 4 to 4"}
        good = [f"{part} {i}" for part in range(4) for i in range(5)]
        good = [text for text in good if text not in ("1 2", "2 3", "2 4", "3 4")]
    else:
        paths[1].write_bytes(paths[1].read_bytes()[:1000])
        paths[2].unlink()
        writer = ArrayRecordWriter(str(paths[3]), "group_size:1")
        for row in (b"no example", b"\x0a\xff"):
            writer.write(row)
        writer.close()
        lost = {(1, 0): "all 5 rows", (2, 0): "all 5 rows", (3, 0): "all 5 rows"}
        good = [f"0 {i}" for i in range(5)]
    found = read(f"tfds:{folder}")
    assert [p.text for p in found if p.problem is None] == good
    rejected = [p for p in found if p.problem is not None]
    assert [p.source for p in rejected] == [f"{paths[part].name}@{row}" for part, row in lost]
    assert {p.problem for p in rejected} == {Reason.UNREADABLE_SOURCE}
    for pair, words in zip(rejected, lost.values(), strict=True):
        assert words == "1 row" or pair.detail.startswith(words)


def test_records_that_are_no_examples_are_rejections(tmp_path):
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    folder = write_tfds(tmp_path / "1.0.0", features(text=text), {"train": [[example(text="x")] * 3]})
    [path] = folder.glob("pairs-train*")
    good = features(text=text).serialize_example(features(text=text).encode_example(example(text="good")))
    other = tfds.features.FeaturesDict({"text": text})
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in (b"no example", other.serialize_example(other.encode_example({"text": "no image"})), good):
        writer.write(row)
    writer.close()
    assert [(p.text, p.problem) for p in read(f"tfds:{folder}")] == [
        ("", Reason.INVALID_RECORD), ("", Reason.MISSING_IMAGE), ("good", None),
    ]  # fmt: skip


def test_tensorflow_is_not_imported(nested):
    program = f"""
import sys
from beam_pipelines import sources
source, address = sources.parse("tfds:{nested}@train", {{"text": "captions/text"}})
assert len([pair for task in source.list_tasks(address) for pair in source.read(task)]) == 3
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
