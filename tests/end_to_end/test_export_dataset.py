"""`superbatch export` of a dataset: every format is opened by the programs it is for, and holds the dataset's rows."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.dataset
import pytest

from beam_pipelines import export, exports
from beam_pipelines.exports import commit
from infra.cli import main
from schemas import manifest as manifests
from schemas import records, shards, storage
from tests import commands, gcs
from tests.end_to_end.test_attempts import before, check_sound

FORMATS = ("tfrecord", "webdataset", "uids", "parquet")
# Run by an interpreter that knows nothing of ours: what TFDS reads, and the records as TensorFlow frames them.
TFDS = """
import hashlib, json, sys
import tensorflow as tf
import tensorflow_datasets as tfds

def digest(content):
    return hashlib.sha256(content).hexdigest()

def plain(name, value):
    if isinstance(value, bytes):
        return digest(value) if name == "image" else value.decode()
    return value.item()

def describe(dataset):
    return [{name: plain(name, value) for name, value in row.items()} for row in tfds.as_numpy(dataset)]

encoded = {"image": tfds.decode.SkipDecoding()}  # as big_vision reads
found, data = {}, sys.argv[1]
for name, version in (argument.split(":") for argument in sys.argv[2:]):
    builder = tfds.builder_from_directory(f"{data}/{name}/{version}")
    loaded = tfds.load(f"{name}:{version}", data_dir=data, split="train", decoders=encoded, shuffle_files=False)
    files = [str(path) for path in builder.info.splits["train"].filepaths]
    found[name] = {
        "shapes": [row["image"].shape for row in tfds.as_numpy(builder.as_dataset("train"))],
        "rows": describe(builder.as_dataset("train", decoders=encoded, shuffle_files=False)),
        "loaded": describe(loaded),
        "records": [[digest(row) for row in tf.data.TFRecordDataset(file).as_numpy_iterator()] for file in files],
    }
ours = [name for name in sys.modules if name.split(".")[0] in ("schemas", "beam_pipelines", "infra")]
print(json.dumps({"found": found, "ours": ours}))
"""


@pytest.fixture(scope="module")
def exported(miniature, tmp_path_factory):
    """A folder with the curated dataset in each format; TFRecord where `tfds.load` looks for it."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in FORMATS:
        assert main(command(miniature, kind, place(folder, kind))) == 0
    return folder


def place(folder: Path, kind: str) -> Path:
    return folder / ("data/mini_curated/1.0.0" if kind == "tfrecord" else kind)


def command(miniature: Path, kind: str, output: object) -> list[str]:
    return ["export", f"--dataset={miniature / 'curated'}", f"--format={kind}", f"--output={output}"]


def raw_shards(dataset: Path) -> list[list[bytes]]:
    """The records of each shard of a dataset."""
    return [list(shards.read_all(dataset / s.name, s.rows)) for s in manifests.read(str(dataset)).shards]


def examples(dataset: Path) -> list[records.Example]:
    return [records.decode_example(record) for shard in raw_shards(dataset) for record in shard]


def metadata(example: records.Example) -> dict[str, object]:
    names = ("uid", "image_id", "language", "url", "source", "width", "height")
    selection = vars(example.selection).items() if example.selection else ()
    known = {f"selection_{name}": value for name, value in selection if value is not None}
    return {name: getattr(example, name) for name in names} | known


def snapshot(folder: Path) -> dict[str, bytes]:
    """The files of an export, without the manifest, in which a time stands."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def failure(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


# --- What other programs find -----------------------------------------------------------------------------------------


def test_tfds_reads_tfrecord_with_as_dataset_and_load(miniature, exported):
    """A curated dataset, and a plain corpus under another name and version."""
    named = ["--name=plain", "--version=2.0.0", f"--output={exported}/data/plain/2.0.0"]
    assert main(["export", f"--dataset={miniature}/control/uniform", "--format=tfrecord", *named]) == 0
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", TFDS, f"{exported}/data", "mini_curated:1.0.0", "plain:2.0.0"],
        cwd="/", capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["ours"] == []
    for name, source in (("mini_curated", miniature / "curated"), ("plain", miniature / "control/uniform")):
        found = read["found"][name]
        assert found["shapes"] == [[32, 32, 3]] * 16
        assert found["records"] == [[hashlib.sha256(r).hexdigest() for r in shard] for shard in raw_shards(source)]
        wanted = [
            {name.replace("selection_", "selection/"): value for name, value in metadata(example).items()}
            | {"text": example.text, "image": hashlib.sha256(example.image).hexdigest()}
            for example in examples(source)
        ]
        assert ("selection/visits" in wanted[0]) == (name == "mini_curated")
        assert sorted(found["rows"], key=lambda row: row["uid"]) == sorted(wanted, key=lambda row: row["uid"])
        assert found["loaded"] == found["rows"]


def test_the_webdataset_package_reads_a_range_of_tars(miniature, exported):
    import webdataset

    urls = f"{exported}/webdataset/mini_curated-{{00000..00001}}.tar"
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(found) == 16
    for sample, example in zip(found, examples(miniature / "curated"), strict=True):
        members = {name: value for name, value in sample.items() if not name.startswith("__")}
        assert sample["__key__"] == example.uid
        assert members.pop("json") == json.dumps(metadata(example), sort_keys=True, separators=(",", ":")).encode()
        assert members == {"png": example.image, "txt": example.text.encode()}


def test_open_clip_and_datacomp_find_how_many_rows_a_tar_has(miniature, exported):
    rows = [shard.rows for shard in manifests.read(str(miniature / "curated")).shards]
    tars = [f"mini_curated-{index:05d}" for index in range(2)]
    assert json.loads((exported / "webdataset/sizes.json").read_text()) == {
        f"{tar}.tar": n for tar, n in zip(tars, rows, strict=True)
    }
    stats = [json.loads((exported / f"webdataset/{tar}_stats.json").read_text()) for tar in tars]
    assert [found["successes"] for found in stats] == rows


def test_exported_tars_can_be_ingested_again(miniature, exported, tmp_path):
    source = f"webdataset:{exported}/webdataset/mini_curated-{{00000..00001}}.tar"
    assert main(["ingest", f"--source={source}", "--name=again", f"--output={tmp_path}/c", "--shards=1"]) == 0
    ours = sorted(examples(tmp_path / "c"), key=lambda e: e.uid)
    for again, example in zip(ours, sorted(examples(miniature / "curated"), key=lambda e: e.uid), strict=True):
        assert (again.uid, again.text, again.image, again.language, again.url) == (
            example.uid, example.text, example.image, example.language, example.url,
        )  # fmt: skip


def test_uids_are_datacomps_array(miniature, exported):
    found = np.load(exported / "uids/uids.npy")
    uids = [example.uid for example in examples(miniature / "curated")]
    wanted = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))
    wanted.sort()
    assert found.dtype == np.dtype("u8,u8")
    assert (found == wanted).all()
    [shard] = manifests.read(str(exported / "uids")).shards
    assert (shard.name, shard.rows) == ("uids.npy", 16)


def test_duckdb_and_arrow_read_the_tables(miniature, exported):
    wanted = []
    described = manifests.read(str(miniature / "curated")).shards
    for shard, content in zip(described, raw_shards(miniature / "curated"), strict=True):
        for row, example in enumerate(map(records.decode_example, content)):
            here = {"row": len(wanted), "shard": shard.name, "row_in_shard": row}
            wanted.append(here | {"text": example.text} | metadata(example))
    pattern = f"{exported}/parquet/*.parquet"
    rows = pyarrow.dataset.dataset(exported / "parquet", exclude_invalid_files=True).to_table().to_pylist()
    assert sorted(rows, key=lambda row: row["row"]) == wanted
    # BigQuery's rule for names of columns.
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in rows[0])
    # The row is that of the whole dataset, and what the learner thought can be asked for.
    best = duckdb.sql(f"SELECT row, uid FROM '{pattern}' ORDER BY selection_learnability DESC, row LIMIT 3").fetchall()
    dataset = shards.open_dataset(str(miniature / "curated"), manifests.read(str(miniature / "curated")))
    assert [records.record_uid(record) for record in dataset.read([row for row, _ in best])] == [u for _, u in best]
    ordered = sorted(wanted, key=lambda row: -row["selection_learnability"])
    assert best[0] == (ordered[0]["row"], ordered[0]["uid"])


def test_the_python_on_the_cards_runs_as_it_stands(miniature, exported, capsys):
    """That of TFRecord needs TensorFlow: it is what the test of TFDS runs, with the folder's name filled in."""
    cards = {kind: (place(exported, kind) / "README.md").read_text() for kind in FORMATS}
    for kind in ("uids", "parquet"):
        [program] = re.findall(r"```python\n(.*?)```", cards[kind], re.DOTALL)
        exec(program.replace("PATH", str(exported / kind)), {})
    said = capsys.readouterr().out.splitlines()
    uids = sorted(example.uid for example in examples(miniature / "curated"))
    assert said[0] == f"16 {uids[:3]}"
    assert any(re.fullmatch(r"│ en +│ +16 │", line) for line in said)
    assert 'tfds.load("mini_curated:1.0.0", split="train", data_dir="DATA_DIR")' in cards["tfrecord"]
    assert '--train-num-samples=16 \\\n    --train-data="PATH/mini_curated-{00000..00001}.tar"' in cards["webdataset"]
    fingerprint = manifests.read(str(miniature / "curated")).fingerprint
    for card in cards.values():
        assert f"of mini\\_curated 1\\.0\\.0, 16 rows, whose fingerprint is `{fingerprint}`" in card
        assert "**The licence is not stated.**" in card
        assert str(miniature) not in card
        assert "$" not in card


def test_tables_of_a_plain_corpus_have_no_columns_of_the_selection(miniature, tmp_path):
    source = miniature / "corpora/pool"
    assert main(["export", f"--dataset={source}", "--format=parquet", f"--output={tmp_path}/p"]) == 0
    names = pyarrow.dataset.dataset(tmp_path / "p", exclude_invalid_files=True).schema.names
    assert "text" in names
    assert not [name for name in names if "selection" in name or name == "image"]


# --- An artifact ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_is_an_artifact_that_verifies_and_knows_its_dataset(miniature, exported, kind, capsys):
    output = place(exported, kind)
    manifest = manifests.read(str(output), kind="export")
    assert manifest.counts == manifests.Counts(read=16, kept=16)
    assert manifest.parent("dataset").fingerprint == manifests.read(str(miniature / "curated")).fingerprint
    assert {file.name for file in [*manifest.shards, *manifest.files]} == set(snapshot(output))
    for depth in ([], ["--shallow"], ["--deep"]):
        assert main(["verify", str(output), *depth]) == 0
    assert main(["lineage", str(output)]) == 0
    assert "└─ dataset: corpus mini_curated 1.0.0" in capsys.readouterr().out


def test_a_flipped_byte_of_an_export_is_found(exported, tmp_path, capsys):
    copy = shutil.copytree(exported / "webdataset", tmp_path / "copy")
    tar = copy / "mini_curated-00001.tar"
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    assert main(["verify", str(copy)]) == 1
    assert f"{tar.name}: sha256" in capsys.readouterr().out


@pytest.mark.parametrize("kind", FORMATS)
def test_a_rerun_changes_nothing_and_another_export_is_refused(miniature, exported, kind, capsys):
    output = place(exported, kind)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert main(command(miniature, kind, output)) == 0
    assert f"{output} is complete already: nothing to do" in capsys.readouterr().err
    other = FORMATS[FORMATS.index(kind) - 1]
    assert f"format was '{kind}', now '{other}'" in failure(capsys, *command(miniature, other, output))
    same_shape = ["export", f"--dataset={miniature}/control/uniform", "--name=mini_curated", f"--format={kind}"]
    line = failure(capsys, *same_shape, f"--output={output}")
    for dataset in ("curated", "control/uniform"):
        assert manifests.read(str(miniature / dataset)).fingerprint in line
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == times


@pytest.mark.parametrize("kind", FORMATS)
def test_a_job_stopped_after_its_first_shard_goes_on_there_and_ends_as_if_it_had_not(
    miniature, exported, tmp_path, monkeypatch, capsys, kind
):
    """And two exports are equal byte for byte, one of them made from a copy with a README beside it."""
    copy = shutil.copytree(miniature / "curated", tmp_path / "copy")
    (copy / "README.md").write_text("# About this dataset\n")
    ours = ["export", f"--dataset={copy}", f"--format={kind}", f"--output={tmp_path}/o"]
    commit_once, made, found = commit.commit_once, [], []

    def only_the_first(path, rows, write):
        if made:
            raise OSError("pulled out")
        shard = commit_once(path, rows, write)
        made.extend([path, os.stat(path).st_mtime_ns])
        return shard

    with monkeypatch.context() as patch:
        patch.setattr(commit, "commit_once", only_the_first)
        assert "OSError: pulled out" in failure(capsys, *ours)
    assert not manifests.exists(str(tmp_path / "o"))
    before(monkeypatch, commit, "commit_once", lambda: found.append(os.stat(made[0]).st_mtime_ns))
    assert main(ours) == 0
    assert found == made[1:]
    assert capsys.readouterr().err.count("written, ") == 1  # of two shards
    assert snapshot(tmp_path / "o") == snapshot(place(exported, kind))
    check_sound(tmp_path / "o", place(exported, kind))


@pytest.mark.parametrize("kind", FORMATS)
def test_files_without_receipts_are_compared_and_adopted(miniature, exported, tmp_path, kind):
    output = shutil.copytree(place(exported, kind), tmp_path / "o")
    lost = manifests.read(str(output)).shards[-1].name
    for name in (lost, "manifest.json"):
        (output / name).unlink()
    assert main(command(miniature, kind, output)) == 0
    check_sound(output, place(exported, kind))


def test_files_of_someone_else_are_named_and_left_alone(miniature, exported, tmp_path, capsys):
    tar = tmp_path / "o/mini_curated-00000.tar"
    tar.parent.mkdir()
    tar.write_bytes(b"not ours")
    line = failure(capsys, *command(miniature, "webdataset", tmp_path / "o"))
    assert f"{tar} is there with other content: its sha256 is {hashlib.sha256(b'not ours').hexdigest()[:12]}" in line
    assert tar.read_bytes() == b"not ours"
    tar.unlink()
    assert main(command(miniature, "webdataset", tmp_path / "o")) == 0
    check_sound(tmp_path / "o", exported / "webdataset")


def test_a_shard_that_was_damaged_between_two_attempts_is_named(miniature, exported, tmp_path, monkeypatch, capsys):
    ours = command(miniature, "tfrecord", tmp_path / "o")
    with monkeypatch.context() as patch:
        patch.setattr(export, "complete", lambda *_: (_ for _ in ()).throw(OSError("pulled out")))
        assert "pulled out" in failure(capsys, *ours)
    shard = tmp_path / "o/mini_curated-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-1])
    line = failure(capsys, *ours)
    assert f"{shard} is there with other content" in line
    assert "Delete it and run again" in line
    shard.unlink()
    assert main(ours) == 0
    check_sound(tmp_path / "o", place(exported, "tfrecord"))


# Where one attempt stands while another one does the whole job: before it calls this.
MOMENTS = {
    "a shard": (commit, "commit_once"),
    "committing a shard": (storage, "commit"),
    "the receipt": (commit, "leave_receipt"),
    "the last step": (exports, "of"),
    "the manifest": (manifests, "write"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_attempt_that_another_one_overtakes_ends_well(miniature, exported, tmp_path, monkeypatch, capsys, moment):
    same, codes = command(miniature, "uids", tmp_path / "o"), []
    before(monkeypatch, *MOMENTS[moment], lambda: codes.append(main(same)))
    assert main(same) == 0, capsys.readouterr().err
    assert codes == [0]
    check_sound(tmp_path / "o", exported / "uids")


# --- Wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format=uids", "--checkpoint=w"], "format uids is of a dataset: name its directory with --dataset"),
        (["--format=uids"], "format is 'uids', which is of a dataset: name its directory with --dataset"),
        (["--format=big_vision", "--dataset=d"], "format big_vision is of a model: name its workdir with --checkpoint"),
        (["--format=big_vision"], "which is of a model: name its workdir with --checkpoint"),
        (["--format=big_vision", "--checkpoint=w", "--name=n"], "name is 'n', and format big_vision is of a model"),
        (["--format=parquet", "--dataset=/nowhere"], "/nowhere is not a complete corpus"),
        (["--format=parquet", "--dataset=IN/embeddings"], "IN/embeddings holds embeddings, and corpus is needed here"),
        (
            ["--format=parquet", "--dataset=OUT"],
            "where one lies in the other: every artifact has its",
        ),
        (["--format=parquet", "--dataset=d", "--name=a/b"], "name is 'a/b'"),
        (["--format=parquet", "--dataset=d", "--version=1"], "version is '1'; it must be three numbers"),
        (["--format=parquet", "--dataset=IN/curated", "--shards=3"], "unknown flag '--shards=3'"),
    ],
)
def test_wrong_flags_are_told_in_one_line_with_the_right_ones(miniature, tmp_path, capsys, flags, words):
    flags = [flag.replace("IN", str(miniature)).replace("OUT", str(tmp_path)) for flag in flags]
    line = failure(capsys, "export", *flags, f"--output={tmp_path}/o")
    assert line.startswith("superbatch export: ")
    assert words.replace("IN", str(miniature)) in line
    assert not (tmp_path / "o").exists()


def test_outputs_of_the_wrong_kind_and_flags_of_beam_are_refused(miniature, tmp_path, capsys):
    assert "format uids makes a directory" in failure(
        capsys, "export", "--format=uids", f"--dataset={miniature}/curated", f"--output={tmp_path}/uids.npy"
    )
    model = [f"--checkpoint={miniature}/workdirs/reference", f"--output={tmp_path}/m.npz"]
    line = failure(capsys, "export", "--format=big_vision", *model, "--runner=FnApiRunner")
    assert "--runner=FnApiRunner is a flag of Beam" in line
    assert list(tmp_path.iterdir()) == []


def test_no_other_command_takes_an_export_for_a_corpus(miniature, exported, tmp_path, capsys):
    corpus = f"--corpus={exported}/parquet"
    for arguments in (
        ["train", corpus, f"--workdir={tmp_path}/w"],
        ["embed", corpus, f"--reference={miniature}/workdirs/reference", f"--output={tmp_path}/e"],
        ["export", f"--dataset={exported}/parquet", "--format=uids", f"--output={tmp_path}/x"],
    ):
        line = failure(capsys, *arguments)
        assert f"{exported}/parquet holds export, and corpus is needed here" in line


# --- Elsewhere --------------------------------------------------------------------------------------------------------


def test_it_runs_as_a_module_too(miniature, exported, tmp_path):
    """As a Flex template starts it."""
    flags = [f"--dataset={miniature}/curated", "--format=uids", f"--output={tmp_path}/u"]
    command = [sys.executable, "-W", "ignore", "-m", "beam_pipelines.export", *flags]
    done = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"export {tmp_path}/u: read 16 = kept 16")
    check_sound(tmp_path / "u", exported / "uids")


def test_from_a_bucket_into_a_bucket_it_is_the_same(miniature, exported, tmp_path):
    with gcs.emulator(tmp_path / "requests.log") as server:
        server.make_bucket("bucket")
        server.upload(miniature / "curated", "bucket", "curated")
        bucket = gcs.Bucket(server, tmp_path)

        def there(kind: str) -> list[str]:
            return ["export", "--dataset=gs://bucket/curated", f"--format={kind}", f"--output=gs://bucket/{kind}"]

        *made, again, verified = bucket.run(*map(there, FORMATS), there("uids"), ["verify", "gs://bucket/webdataset"])
        for code, _, said, errors in (*made, again, verified):
            assert code == 0, f"{said} {errors}"
        assert "gs://bucket/uids is complete already: nothing to do" in again[3]
        for kind in FORMATS:
            manifest, theirs = bucket.manifest(kind), manifests.read(str(place(exported, kind)))
            assert manifest.fingerprint == theirs.fingerprint
            assert (manifest.shards, manifest.files) == (theirs.shards, theirs.files)
            names = {f"{kind}/{file.name}" for file in [*manifest.shards, *manifest.files]}
            assert set(server.names("bucket", f"{kind}/")) == names | {f"{kind}/manifest.json"}
