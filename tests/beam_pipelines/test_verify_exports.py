"""`superbatch verify` of exports whose hashes are right: what their rows hold is compared all the same."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import exports, tfrecord
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.export import ExportConfig
from beam_pipelines.rights import Rights
from beam_pipelines.verify import verify
from schemas import manifest as manifests
from schemas import records, shards
from schemas.identity import example_uid, image_identity
from tests.conftest import picture

INFO = manifests.DatasetInfo(name="d", split="train")
FORMATS = ("tfrecord", "webdataset", "uids", "parquet")
OF_SHARDS = ("tfrecord", "webdataset", "parquet")  # in the dataset's order
WITH_IMAGES = ("tfrecord", "webdataset")


def example(number: int, image: bytes | None = None) -> records.Example:
    image = image or picture(number, kind="JPEG" if number % 2 else "PNG")
    text = f"thing number {number}"
    return records.Example(
        image=image, text=text, uid=example_uid(image, text), image_id=image_identity(image), language="en", url="",
        source="s", width=32, height=32,
    )  # fmt: skip


ROWS = [[example(number) for number in range(4)], [example(number) for number in range(4, 7)]]


class Forged:
    """A dataset, and an export of the rows that it should have had; both are what their manifests say."""

    def __init__(self, folder: Path, kind, rows=ROWS, due=ROWS):
        self.dataset, self.path, self.kind = folder / "dataset", folder / "export", kind
        self.path.mkdir()
        self.config = ExportConfig(format=kind, dataset=str(self.dataset), output=str(self.path))
        self.parents = [manifests.as_parent("dataset", str(self.dataset), self._write_dataset(due))]
        to = exports.of(kind)
        origin = exports.Origin(name="d", version="1.0.0", fingerprint="f", rights=Rights())
        dataset = exports.Dataset(
            directory="", info=INFO, version="1.0.0", row_kind="corpus", shards=len(rows), rows=sum(map(len, rows)),
            origin=origin,
        )  # fmt: skip
        self.shards, self.files = [], []
        (self.path / ".work").mkdir()
        for index, part in enumerate(rows):
            first = sum(shard.rows for shard in self.shards)
            name = shards.shard_name(INFO, index, len(rows))
            task = exports.Task(index, manifests.Shard(name=name, rows=len(part), bytes=0, sha256=""), first)
            file = to.shard_name(dataset, index)
            to.write(self.path / file, dataset, task, map(records.encode_example, part))
            self.shards.append(self._describe(file, len(part)))
        if kind == "uids":
            self.shards, self.files = to.complete(str(self.path), dataset, self.shards)
        shutil.rmtree(self.path / ".work")
        self.seal()

    def _write_dataset(self, rows) -> manifests.Manifest:
        written = [
            shards.write_shard(
                self.dataset / shards.shard_name(INFO, index, len(rows)), map(records.encode_example, part)
            ).shard
            for index, part in enumerate(rows)
        ]
        config = CurateConfig(corpus="c", selections="s", output="o", budget=1)
        kept = sum(map(len, rows))
        counts = manifests.Counts(read=kept, kept=kept)
        made = manifests.make(
            kind="corpus", name="d", version="1.0.0", config=config, parents=[], counts=counts, shards=written,
            files=[], dataset=INFO,
        )  # fmt: skip
        return manifests.write(str(self.dataset), made)

    def _describe(self, name: str, rows: int) -> manifests.Shard:
        [file] = manifests.describe_files(str(self.path), [name])
        return manifests.Shard(rows=rows, **file.model_dump())

    def seal(self, rows: int | None = None) -> None:
        """Describes the files as they are now; with `rows`, the first one with so many."""
        self.shards = [self._describe(shard.name, shard.rows) for shard in self.shards]
        if rows is not None:
            self.shards[0] = self.shards[0].model_copy(update={"rows": rows})
        kept = sum(shard.rows for shard in self.shards)
        counts = manifests.Counts(read=kept, kept=kept)
        made = manifests.make(
            kind="export", name="d", version="1.0.0", config=self.config, parents=self.parents, counts=counts,
            shards=self.shards, files=[],
        )  # fmt: skip
        (self.path / "manifest.json").write_bytes(manifests.serialise(made))

    @property
    def first(self) -> Path:
        return self.path / self.shards[0].name

    def findings(self, depth="full") -> list[str]:
        return verify(str(self.path), depth).findings

    def finds(self, words: str, depth="full") -> bool:
        """Whether this is the one finding, of the first file."""
        found = self.findings(depth)
        return len(found) == 1 and found[0].startswith(f"{self.first.name}: ") and words in found[0]


def rewrite_tar(path: Path, change) -> None:
    """Passes the members through a function of (name, content) that gives another pair, or None to leave it out."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in filter(None, (change(*member) for member in members)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("kind", FORMATS)
def test_an_honest_export_verifies_at_every_depth_also_without_its_dataset(tmp_path, kind):
    forged = Forged(tmp_path, kind)
    assert [forged.findings(depth) for depth in ("shallow", "full", "deep")] == [[], [], []]
    shutil.rmtree(forged.dataset)
    assert forged.findings("deep") == []


@pytest.mark.parametrize("depth", ["shallow", "full"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_number_of_rows_that_is_not_the_files_is_found_without_reading_it_whole(tmp_path, kind, depth):
    forged = Forged(tmp_path, kind)
    has = forged.shards[0].rows
    forged.seal(rows=has - 1)
    assert forged.findings(depth)[0] == f"{forged.first.name}: {has} rows, recorded {has - 1}"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_none_of_its_format_is_found_without_reading_it_whole(tmp_path, kind):
    forged = Forged(tmp_path, kind)
    content = forged.first.read_bytes()
    for broken in (content[: len(content) // 2], b"<html>404</html>" * 100):
        forged.first.write_bytes(broken)
        forged.seal()
        assert forged.finds("", "shallow")


@pytest.mark.parametrize("kind", OF_SHARDS)
def test_rows_in_another_order_are_the_datasets_no_more(tmp_path, kind):
    swapped = [[ROWS[0][1], ROWS[0][0], *ROWS[0][2:]], ROWS[1]]
    forged = Forged(tmp_path, kind, swapped)
    assert forged.findings("shallow") == []
    assert forged.finds(f"row 0 is {ROWS[0][1].uid}, and {ROWS[0][0].uid} in the dataset")
    shutil.rmtree(forged.dataset)
    assert forged.findings() == []


def test_uids_of_another_dataset_are_found(tmp_path):
    forged = Forged(tmp_path, "uids", [[*ROWS[0][:3], example(100)], ROWS[1]])
    assert forged.findings("shallow") == []
    assert forged.finds("in the dataset, sorted")


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_and_shards_that_the_dataset_has_and_the_export_has_not_are_found(tmp_path, kind):
    found = Forged(tmp_path, kind, [ROWS[0], ROWS[1][:2]]).findings()
    lacks = "6 uids, and 7 rows in the dataset" if kind == "uids" else "2 rows, and 3 in the dataset's d-train.array"
    assert lacks in found[0]
    if kind != "uids":
        (tmp_path / "less").mkdir()
        [finding] = Forged(tmp_path / "less", kind, ROWS[:1]).findings()
        assert "is the last of 1 shards, and the dataset has 2" in finding


@pytest.mark.parametrize("kind", WITH_IMAGES)
def test_uids_are_recomputed_from_image_and_text(tmp_path, kind):
    changed = replace(ROWS[0][2], text="another text")
    forged = Forged(tmp_path, kind, [[*ROWS[0][:2], changed, ROWS[0][3]], ROWS[1]])
    assert forged.findings("shallow") == []
    assert forged.finds(f"row 2 has uid {changed.uid}, its image and text give another")


@pytest.mark.parametrize("kind", WITH_IMAGES)
def test_deep_decodes_every_image(tmp_path, kind):
    cut = [[example(0), example(1, picture(1)[:-40])]]
    forged = Forged(tmp_path, kind, cut, due=cut)
    assert forged.findings() == []  # the uids are right
    assert forged.finds(f"row 1 ({cut[0][1].uid}) has an image that cannot be decoded: ", "deep")


def test_a_record_that_is_none_or_does_not_match_its_checksum_is_named(tmp_path):
    forged = Forged(tmp_path, "tfrecord")
    content = bytearray(forged.first.read_bytes())
    content[40] ^= 1
    forged.first.write_bytes(content)
    forged.seal()
    assert forged.findings("shallow") == []
    assert forged.finds("row 0 cannot be read: the record does not match its checksum")
    with forged.first.open("wb") as file:
        for record in (b"\xff", *map(records.encode_example, ROWS[0][1:])):
            tfrecord.write(file, record)
    forged.seal()
    assert forged.finds("row 0 cannot be read: record is not a tf.train.Example")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, content: None if name.endswith("txt") else (name, content), "has members png, json; jpg or png"),
        (lambda name, content: (name.replace("png", "jpg"), content), "has an image of another format than"),
        (lambda name, content: (name, b"[" * 9 if name.endswith("json") else content), "cannot be read: JSONDecodeErr"),
        (lambda name, content: (name, b"\xff" if name.endswith("txt") else content), "cannot be read: UnicodeDecodeE"),
        (
            lambda name, content: (
                name,
                json.dumps(json.loads(content) | {"uid": "\x1b[31m"}).encode() if name.endswith("json") else content,
            ),
            f"row 0 is {ROWS[0][0].uid} by its members' names and \\x1b[31m in its description",
        ),
        (
            lambda name, content: (
                name,
                json.dumps(json.loads(content) | {"image_id": "0" * 32}).encode() if "json" in name else content,
            ),
            "row 0 has image_id 00000000000000000000000000000000, its image gives another",
        ),
    ],
)
def test_a_sample_that_is_not_whole_is_named(tmp_path, change, words):
    row = [[example(0)]]
    forged = Forged(tmp_path, "webdataset", row, due=row)
    rewrite_tar(forged.first, change)
    forged.seal()
    assert forged.findings("shallow") == []
    assert forged.finds(words)


def test_a_sparse_member_is_not_read(tmp_path):
    """A few bytes could say that they are a terabyte."""
    row = [[example(0)]]
    forged = Forged(tmp_path, "webdataset", row, due=row)
    with tarfile.open(forged.first, "w", format=tarfile.PAX_FORMAT) as tar:
        for extension in ("png", "txt", "json"):
            info = tarfile.TarInfo(f"{row[0][0].uid}.{extension}")
            info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
            tar.addfile(info)
    forged.seal()
    assert forged.finds(".png that is no plain file")


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("row", 7, "row 1 says that it is row 7 and row_in_shard 1; 1 and 1 are due"),
        ("row_in_shard", 0, "row 1 says that it is row 1 and row_in_shard 0; 1 and 1 are due"),
        ("uid", "A" * 32, f"row 1 has uid '{'A' * 32}'; it must be 32 hex digits"),
    ],
)
def test_a_table_counts_its_rows_and_names_them(tmp_path, column, value, words):
    forged = Forged(tmp_path, "parquet")
    table = pq.read_table(forged.first)
    rows = table.to_pylist()
    rows[1][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), forged.first)
    forged.seal()
    assert forged.findings("shallow") == []
    assert forged.finds(words)
    pq.write_table(table.drop_columns([column]), forged.first)
    forged.seal()
    assert forged.finds(f"it has no column {column}")


def test_uids_that_are_not_sorted_or_there_twice_are_named(tmp_path):
    forged = Forged(tmp_path, "uids")
    uids = np.load(forged.first)
    for row, other, words in ((2, 5, "is below the one before"), (3, 2, "row 3 (")):
        changed = uids.copy()
        changed[row] = uids[other]
        np.save(forged.first, changed)
        forged.seal()
        assert forged.findings("shallow") == []
        assert forged.finds(words)
    assert forged.finds(f"({int(uids[2][0]):016x}{int(uids[2][1]):016x}) is the same as the one before")


def test_a_header_that_numpy_cannot_parse_is_a_finding(tmp_path):
    forged = Forged(tmp_path, "uids")
    content = forged.first.read_bytes()
    for broken in (content.replace(b"}", b"(", 1), content.replace(b"{", b"\0", 1)):
        forged.first.write_bytes(broken)
        forged.seal()
        assert forged.finds("its header cannot be read: ")


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "unpickled",))

    forged = Forged(tmp_path, "uids")
    np.save(forged.first, np.array([Bomb()] * 7, object), allow_pickle=True)
    forged.seal()
    assert forged.finds("it is an array [7] of object", "deep")
    assert not (tmp_path / "unpickled").exists()


def test_a_format_that_is_not_known_is_a_finding(tmp_path):
    forged = Forged(tmp_path, "uids")
    object.__setattr__(forged.config, "format", "feather")
    forged.seal()
    assert forged.finds("its format is 'feather' by manifest.json; known are tfrecord, webdataset, uids, parquet")
