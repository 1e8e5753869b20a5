"""The same pairs in every format that is read: the same corpus, apart from where its rows came from."""

import dataclasses
import functools
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import cli
from schemas import manifest as manifests
from schemas import records, shards
from tests import raw
from tests.conftest import picture, write_folder

PAIRS = [(picture(i), f"a thing number {i}") for i in range(20)]
PAIRS += [PAIRS[3], (b"<html>404</html>", "not found")]
LANGUAGE = {"language": "en"}


def write_parquet(folder: Path) -> str:
    images, texts = zip(*PAIRS, strict=True)
    for number, rows in enumerate((slice(0, 9), slice(9, None))):
        table = pa.table({"jpg": images[rows], "text": texts[rows], "language": ["en"] * len(texts[rows])})
        pq.write_table(table, folder / f"{number}.parquet")
    return f"parquet:{folder}/{{0..1}}.parquet"


def write_webdataset(folder: Path) -> str:
    members = []
    for number, (image, text) in enumerate(PAIRS):
        members += [
            (f"{number:04d}.png", image),
            (f"{number:04d}.json", json.dumps(LANGUAGE | {"text": text}).encode()),
        ]
    return f"webdataset:{raw.write_tar(folder / '0.tar', members)}"


def write_img2dataset(folder: Path) -> str:
    rows = [{"image": image, "caption": text, "url": None} | LANGUAGE for image, text in PAIRS]
    raw.write_img2dataset(folder / "raw", rows[:9], "00000")
    return f"img2dataset:{raw.write_img2dataset(folder / 'raw', rows[9:], '00001')}"


def write_tfds(suffix: str, folder: Path) -> str:
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "alt": tfds.features.Sequence(text), "language": text}
    )
    rows = [{"image": io.BytesIO(image), "alt": [alt]} | LANGUAGE for image, alt in PAIRS]
    splits = {"train": [rows[:9], rows[9:]], "test": [rows[:1]]}
    return f"tfds:{raw.write_tfds(folder / 'raw', features, splits, suffix)}@train"


FORMATS = {
    "folder": (lambda folder: f"folder:{write_folder(folder / 'raw', PAIRS)}", []),
    "webdataset": (write_webdataset, []),
    "img2dataset": (write_img2dataset, []),
    "parquet": (write_parquet, ["--image_field=jpg"]),
    "tfds": (functools.partial(write_tfds, "array_record"), ["--text_field=alt"]),
    "tfds-tfrecord": (functools.partial(write_tfds, "tfrecord"), ["--text_field=alt"]),
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    """A corpus made from each format."""
    made = {}
    for name, (write, flags) in FORMATS.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = folder / "corpus"
        ingest = ["ingest", f"--source={write(folder)}", "--name=pairs", f"--output={made[name]}", "--shards=2"]
        assert cli.main([*ingest, "--max_rejected_fraction=0.1", *flags]) == 0
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_give_the_same_rows_in_the_same_order(corpora, name):
    def rows(corpus: Path) -> list[records.Example]:
        stored = shards.open_dataset(str(corpus), manifests.read(str(corpus)))
        return [dataclasses.replace(records.decode_example(row), source="") for row in stored.read(range(len(stored)))]

    assert rows(corpora[name]) == rows(corpora["folder"])
    counts = manifests.read(str(corpora[name])).counts
    assert (counts.read, counts.kept, counts.duplicates) == (22, 20, 1)
    assert cli.main(["verify", str(corpora[name])]) == 0


def test_columns_are_part_of_what_a_job_is(corpora, capsys):
    parquet = corpora["parquet"]
    ingest = ["ingest", f"--source=parquet:{parquet.parent}/{{0..1}}.parquet", "--name=pairs", f"--output={parquet}"]
    assert cli.main([*ingest, "--shards=2"]) == 1
    assert "image_field was 'jpg', now None" in capsys.readouterr().err


def test_fields_of_a_format_that_has_none_are_refused(tmp_path, capsys):
    ingest = ["ingest", f"--source=folder:{tmp_path}", "--name=x", f"--output={tmp_path}/x", "--text_field=alt"]
    assert cli.main(ingest) == 1
    assert "text_field is 'alt', and folder: has no names for it" in capsys.readouterr().err
