"""Sources: pairs in order, every defect a rejection, hostile names harmless."""

import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import sources
from schemas.errors import ConfigError, DataError
from schemas.rejections import Reason
from tests.conftest import picture, write_folder
from tests.raw import write_tar

IMAGE = picture(0)


def write_parquet(path: Path, columns: dict, **options) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(source: str, fields: dict[str, str] | None = None) -> list[sources.RawPair]:
    format_, address = sources.parse(source, fields)
    return [pair for task in format_.list_tasks(address) for pair in format_.read(task)]


def record(**fields) -> bytes:
    return json.dumps(fields).encode()


def test_webdataset_yields_one_pair_for_each_caption(tmp_path):
    members = [
        ("a.jpg", IMAGE), ("a.json", record(captions=["one", "two"], language="en", url="http://x")),
        ("dir/b.PNG", IMAGE), ("dir/b.txt", b"drei"),
        ("c.seg.json", b"{}"), ("d.webp", IMAGE), ("d.json", record(caption="four", lang="de")),
    ]  # fmt: skip
    write_tar(tmp_path / "x-1.tar", members)
    write_tar(tmp_path / "x-0.tar", [("z.jpg", IMAGE), ("z.txt", b"first")])
    found = read(f"webdataset:{tmp_path}/x-*.tar")
    good = [(p.source, p.text, p.language, p.url) for p in found if p.problem is None]
    assert good == [
        ("x-0.tar::z", "first", "und", ""),
        ("x-1.tar::a", "one", "en", "http://x"),
        ("x-1.tar::a", "two", "en", "http://x"),
        ("x-1.tar::dir/b", "drei", "und", ""),
        ("x-1.tar::d", "four", "de", ""),
    ]
    assert [(p.source, p.problem) for p in found if p.problem] == [("x-1.tar::c", Reason.MISSING_IMAGE)]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.jpg", IMAGE)], Reason.MISSING_TEXT),
        ([("a.txt", b"x")], Reason.MISSING_IMAGE),
        ([("a.jpg", IMAGE), ("a.json", b"{")], Reason.INVALID_RECORD),
        ([("a.jpg", IMAGE), ("a.json", record(captions=[1]))], Reason.MISSING_TEXT),
        ([("a.jpg", IMAGE), ("a.txt", b"\xff\xfe")], Reason.INVALID_TEXT),
    ],
)
def test_webdataset_defects_have_reasons(tmp_path, members, reason):
    write_tar(tmp_path / "x.tar", members)
    assert [p.problem for p in read(f"webdataset:{tmp_path}/x.tar")] == [reason]


def test_a_cut_tar_gives_what_it_holds_and_one_rejection(tmp_path):
    path = write_tar(
        tmp_path / "x.tar", [("a.jpg", IMAGE), ("a.txt", b"one"), ("b.jpg", IMAGE * 50), ("b.txt", b"two")]
    )
    path.write_bytes(path.read_bytes()[:3000])
    found = read(f"webdataset:{path}")
    assert found[0].text == "one"
    assert found[-1].problem == Reason.UNREADABLE_SOURCE
    assert found[-1].source == "x.tar"


@pytest.mark.parametrize("cut", [5 * 1024, 5 * 1024 + 200, None])
def test_damage_between_members_is_not_taken_for_the_end(tmp_path, cut):
    """Cut at a header, inside one, and with one flipped: tarfile itself would stop without a word."""
    members = [(f"{key}.{extension}", b"x") for key in "abcde" for extension in ("jpg", "txt")]
    path = write_tar(tmp_path / "x.tar", members)
    content = bytearray(path.read_bytes())
    if cut is None:
        content[4 * 1024 + 150] ^= 1
    path.write_bytes(content[:cut])
    found = read(f"webdataset:{path}")
    assert [p.text for p in found if p.problem is None] == ["x", "x"]
    assert found[-1].problem == Reason.UNREADABLE_SOURCE
    assert "byte" in found[-1].detail


def test_sparse_and_repeated_members_are_rejected_unread(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        sparse = tarfile.TarInfo("a.jpg")
        sparse.size = 0
        sparse.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(50 << 30)}
        tar.addfile(sparse)
        for name in ("a.txt", "b.jpg", "b.jpg", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert [p.problem for p in read(f"webdataset:{path}")] == [Reason.FILE_TOO_LARGE, Reason.INVALID_RECORD]


def test_a_member_that_lies_about_its_size_does_not_hang_the_job(tmp_path):
    """Read as a stream, the rest of four exabytes would be skipped block by block."""
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, size in (("a.jpg", None), ("a.txt", None), ("b.jpg", 2**62), ("b.txt", None)):
            member = tarfile.TarInfo(name)
            member.size = 1
            member.pax_headers = {"size": str(size)} if size else {}
            tar.addfile(member, io.BytesIO(b"x"))
    found = read(f"webdataset:{tmp_path}/x.tar")
    assert [p.problem for p in found] == [None, Reason.FILE_TOO_LARGE, Reason.UNREADABLE_SOURCE]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_damaged_compressed_tar_is_one_rejection_more(tmp_path, compression):
    with tarfile.open(tmp_path / "x.tar", f"w:{compression}") as tar:
        for number in range(200):
            for extension, content in (("jpg", random.Random(number).randbytes(3000)), ("txt", b"a text")):
                member = tarfile.TarInfo(f"{number}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    content = bytearray((tmp_path / "x.tar").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = b"\xff" * 50
    (tmp_path / "x.tar").write_bytes(content)
    assert read(f"webdataset:{tmp_path}/x.tar")[-1].problem == Reason.UNREADABLE_SOURCE


def test_a_file_that_is_no_tar_is_one_rejection(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>" * 100)
    assert [p.problem for p in read(f"webdataset:{tmp_path}/x.tar")] == [Reason.UNREADABLE_SOURCE]


def test_links_in_a_tar_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a.jpg", "a.txt"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
    found = read(f"webdataset:{tmp_path}/x.tar")
    assert [(p.source, p.problem, p.image) for p in found] == [("x.tar::a", Reason.UNSAFE_PATH, b"")]


def test_parquet_yields_one_pair_for_each_caption(tmp_path):
    hugging_face = {"image": [{"bytes": IMAGE, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]}
    write_parquet(
        tmp_path / "x-1.parquet", {**hugging_face, "text": ["one", "two", "three"], "url": ["http://x", None, None]}
    )
    columns = {"image": [IMAGE] * 3, "text": [["four", "five"], [], None], "language": ["de", None, "en"]}
    write_parquet(tmp_path / "x-0.parquet", columns)
    found = read(f"parquet:{tmp_path}/x-*.parquet")
    assert [(p.source, p.text, p.language, p.url, p.problem) for p in found] == [
        ("x-0.parquet@0", "four", "de", "", None),
        ("x-0.parquet@0", "five", "de", "", None),
        ("x-0.parquet@1", "", "und", "", Reason.MISSING_TEXT),
        ("x-0.parquet@2", "", "und", "", Reason.MISSING_TEXT),
        ("x-1.parquet@0", "one", "und", "http://x", None),
        ("x-1.parquet@1", "", "und", "", Reason.MISSING_IMAGE),
        ("x-1.parquet@2", "", "und", "", Reason.MISSING_IMAGE),
    ]
    assert {p.image for p in found if p.problem is None} == {IMAGE}


def test_parquet_columns_have_the_names_that_are_given(tmp_path):
    write_parquet(tmp_path / "x.parquet", {"jpg": [IMAGE], "ALT": ["one"], "lang": ["fr"], "URL": ["http://x"]})
    fields = {"image": "jpg", "text": "ALT", "language": "lang", "url": "URL"}
    assert [(p.text, p.language, p.url) for p in read(f"parquet:{tmp_path}/x.parquet", fields)] == [
        ("one", "fr", "http://x")
    ]
    with pytest.raises(DataError, match=r"no column 'image' of images; there are jpg, ALT, lang, URL: .*--image_field"):
        read(f"parquet:{tmp_path}/x.parquet")
    with pytest.raises(DataError, match="column 'ALT' of images holds string; it must hold bytes"):
        read(f"parquet:{tmp_path}/x.parquet", {"image": "ALT", "text": "ALT"})
    with pytest.raises(ConfigError, match=r"image_field is 'jpg', and folder: has no names for it \(it takes none\)"):
        sources.parse("folder:/x", fields)


def test_parquet_is_read_by_the_batch_and_in_order(tmp_path):
    texts = [f"text {i}" for i in range(500)]
    write_parquet(tmp_path / "x.parquet", {"image": [IMAGE] * 500, "text": texts}, row_group_size=130)
    found = read(f"parquet:{tmp_path}/x.parquet")
    assert [p.text for p in found] == texts
    assert [p.source for p in found] == [f"x.parquet@{i}" for i in range(500)]


def test_parquet_text_that_is_no_utf8_is_one_rejection(tmp_path):
    texts = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    write_parquet(tmp_path / "x.parquet", {"image": [IMAGE] * 3, "text": texts})
    assert [(p.text, p.problem) for p in read(f"parquet:{tmp_path}/x.parquet")] == [
        ("good", None), ("", Reason.INVALID_TEXT), ("fine", None)
    ]  # fmt: skip


def test_damage_costs_a_parquet_file_one_row_group(tmp_path):
    for number, n in enumerate((200, 300)):
        write_parquet(
            tmp_path / f"x-{number}.parquet", {"image": [IMAGE] * n, "text": [f"{i}" for i in range(n)]},
            row_group_size=100, compression="zstd", use_dictionary=False,
        )  # fmt: skip
    content = bytearray((tmp_path / "x-1.parquet").read_bytes())
    middle = pq.read_metadata(tmp_path / "x-1.parquet").row_group(1).column(0).data_page_offset
    content[middle : middle + 40] = b"\xff" * 40
    (tmp_path / "x-1.parquet").write_bytes(content)
    found = read(f"parquet:{tmp_path}/x-*.parquet")
    good = [p.text for p in found if p.problem is None]
    assert good == [f"{i}" for i in [*range(200), *range(100), *range(200, 300)]]
    assert [(p.source, p.problem) for p in found if p.problem] == [("x-1.parquet@100", Reason.UNREADABLE_SOURCE)]
    (tmp_path / "x-1.parquet").write_bytes(b"<html>")
    assert [p.problem for p in read(f"parquet:{tmp_path}/x-*.parquet")[200:]] == [Reason.UNREADABLE_SOURCE]
    with pytest.raises(DataError, match=r"x-1\.parquet cannot be read as Parquet"):
        read(f"parquet:{tmp_path}/x-1.parquet")


def test_folder_tasks_cover_every_line_once(tmp_path, monkeypatch):
    from beam_pipelines.sources import folder

    monkeypatch.setattr(folder, "_LINES_PER_TASK", 3)
    write_folder(tmp_path / "f", [(IMAGE, f"text {i}") for i in range(8)])
    format_, address = sources.parse(f"folder:{tmp_path}/f")
    assert len(format_.list_tasks(address)) == 3
    assert [p.text for p in read(f"folder:{tmp_path}/f")] == [f"text {i}" for i in range(8)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", Reason.INVALID_RECORD),
        (b"[1]", Reason.MISSING_IMAGE),
        (record(text="x"), Reason.MISSING_IMAGE),
        (record(file_name="images/0000.png"), Reason.MISSING_TEXT),
        (record(file_name="gone.png", text="x"), Reason.MISSING_IMAGE),
        (record(file_name="../secret.png", text="x"), Reason.UNSAFE_PATH),
        (record(file_name="/etc/passwd", text="x"), Reason.UNSAFE_PATH),
        (record(file_name="images", text="x"), Reason.MISSING_IMAGE),
    ],
)
def test_folder_defects_have_reasons(tmp_path, line, reason):
    write_folder(tmp_path / "f", [(IMAGE, "x")])
    (tmp_path / "secret.png").write_bytes(IMAGE)
    (tmp_path / "f" / "captions.jsonl").write_bytes(line + b"\n")
    assert [p.problem for p in read(f"folder:{tmp_path}/f")] == [reason]


def test_a_glob_without_matches_says_so(tmp_path):
    with pytest.raises(DataError, match=r"no file matches .*nothing-\*\.tar"):
        read(f"webdataset:{tmp_path}/nothing-*.tar")


def test_a_range_names_files_one_by_one(tmp_path):
    for number in (8, 9, 10, 11):
        write_tar(tmp_path / f"x-{number:03d}.tar", [("a.jpg", IMAGE), ("a.txt", str(number).encode())])
    found = read(f"webdataset:{tmp_path}/x-{{008..010}}.tar")
    assert [(p.source, p.text) for p in found] == [("x-008.tar::a", "8"), ("x-009.tar::a", "9"), ("x-010.tar::a", "10")]
    with pytest.raises(DataError, match=r"no file matches .*x-012\.tar"):
        read(f"webdataset:{tmp_path}/x-{{010..012}}.tar")
    with pytest.raises(DataError, match=r"range \{9\.\.8\} .* must count upwards"):
        read(f"webdataset:{tmp_path}/x-{{9..8}}.tar")


@pytest.mark.parametrize("source", ["", "folder", "folder:", "zip:/a", "/data/x.tar"])
def test_an_unknown_source_names_the_formats(source):
    with pytest.raises(ConfigError, match="webdataset, img2dataset, parquet, tfds, folder"):
        sources.parse(source)
