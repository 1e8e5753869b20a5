"""Sources: pairs in order, every defect a rejection, hostile names harmless."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from beam_pipelines import sources
from schemas.errors import ConfigError, DataError
from schemas.rejections import Reason
from tests.conftest import picture, write_folder

IMAGE = picture(0)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read(source: str) -> list[sources.RawPair]:
    format_, address = sources.parse(source)
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


def test_a_file_that_is_no_tar_is_one_rejection(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>" * 100)
    assert [p.problem for p in read(f"webdataset:{tmp_path}/x.tar")] == [Reason.UNREADABLE_SOURCE]


def test_links_in_a_tar_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a.jpg", "a.txt"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
    assert read(f"webdataset:{tmp_path}/x.tar") == []


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


@pytest.mark.parametrize("source", ["", "folder", "folder:", "zip:/a", "/data/x.tar"])
def test_an_unknown_source_names_the_formats(source):
    with pytest.raises(ConfigError, match="webdataset, folder"):
        sources.parse(source)
