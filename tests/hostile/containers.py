"""Damaged and malicious containers: names that climb out of folders, links, files cut anywhere."""

import gzip
import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests import raw
from tests.hostile import images, texts

_NAMES = (
    "../../escaped", "/tmp/escaped", "..\\..\\escaped", "C:\\escaped", "a\nb", "a\rb", "-rf", ".hidden", "", ".", "..",
    "x" * 300, "x/" * 200 + "y", "ünïcödé", "名前", "a b", "a'b\"c", "$(touch escaped)", "|touch escaped",
    "a%00b", "a\x1b[31m",
    "\u202eabc", "con", "nul",
)  # fmt: skip
_KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)


def write(folder: Path, count: int, seed: int) -> list[str]:
    """Writes so many files of each format, each beginning with a sound one; returns the sources."""
    rng = random.Random(f"{seed} containers")
    (folder / "tars").mkdir(parents=True)
    (folder / "parquet").mkdir()
    for index in range(count):
        tar, path = _tar(rng), folder / "tars" / f"{index:04d}.tar"
        path.write_bytes(images.damaged(rng, tar) if rng.random() < 0.6 else tar)
        table = _table(rng)
        sound = index == 0 or rng.random() < 0.2
        (folder / "parquet" / f"{index:04d}.parquet").write_bytes(table if sound else images.damaged(rng, table))
    raw.write_tar(folder / "tars" / "0000.tar", [("a.png", images.whole()), ("a.txt", b"a sound pair")])
    (folder / "lines").mkdir()
    lines = b"\n".join(_line(rng) for _ in range(20 * count))
    (folder / "lines" / "captions.jsonl").write_bytes(lines)
    (folder / "lines" / "0.png").write_bytes(images.whole())
    return [f"webdataset:{folder}/tars/*.tar", f"parquet:{folder}/parquet/*.parquet", f"folder:{folder}/lines"]


def _tar(rng: random.Random) -> bytes:
    output = io.BytesIO()
    format_ = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=output, mode="w", format=format_) as tar:
        for index in range(rng.randrange(1, 8)):
            stem = rng.choice(_NAMES) if rng.random() < 0.4 else f"{index:04d}"
            for extension in rng.sample(["jpg", "png", "txt", "json", "JPG", "cls", "tar"], rng.randrange(1, 4)):
                member = tarfile.TarInfo(f"{stem}.{extension}")
                content = images.sound(rng) if extension in ("jpg", "png", "JPG") else texts.raw(rng)
                if rng.random() < 0.15:
                    member.type, member.linkname = (
                        rng.choice(_KINDS),
                        rng.choice(["/etc/passwd", "../../x", member.name]),
                    )
                    content = b""
                if format_ == tarfile.PAX_FORMAT and rng.random() < 0.2:
                    member.pax_headers = {
                        "path": rng.choice(_NAMES) or "p",
                        "size": str(rng.choice([0, 2**40])),
                        "mtime": "nan",
                    }
                member.size = len(content)
                try:
                    tar.addfile(member, io.BytesIO(content))
                except (ValueError, UnicodeError):  # this format has no such name
                    continue
    content = output.getvalue()
    return gzip.compress(content) if rng.random() < 0.05 else content


def _table(rng: random.Random) -> bytes:
    rows = range(rng.randrange(1, 30))
    table = pa.table(
        {
            "image": [images.whole(), *(images.image(rng) for _ in rows[1:])],
            "text": [f"row {row} of this" for row in rows],
        }
    )
    output = io.BytesIO()
    compression = rng.choice(["snappy", "zstd", "gzip", "none"])
    pq.write_table(table, output, row_group_size=10, compression=compression, use_dictionary=rng.random() < 0.5)
    return output.getvalue()


def _line(rng: random.Random) -> bytes:
    match rng.randrange(10):
        case 0:
            return b"[" * rng.choice([10, 100_000]) + b"]" * 10
        case 1:
            return b'{"file_name": "0.png", "text": ' + b"9" * rng.choice([10, 5000]) + b"}"
        case 2:
            return b'{"file_name": "0.png", "text": NaN, "text": "twice, and the last one counts"}'
        case 3:
            return rng.randbytes(rng.randrange(200)).replace(b"\n", b"")
        case 4:
            return json.dumps({"file_name": rng.choice(_NAMES), "text": "a text"}).encode()
        case 5:
            return json.dumps(
                {"file_name": "0.png", "captions": rng.choice([[], [1], [None], ["a", "b"], {"a": 1}])}
            ).encode()
        case 6:
            return json.dumps(rng.choice([None, 1, "x", [], {}, {"file_name": 1}, {"file_name": ["0.png"]}])).encode()
        case 7:
            return b'{"file_name": "0.png", "text": "' + b"a" * 1_000_000 + b'"}'
        case 8:
            return images.damaged(rng, json.dumps({"file_name": "0.png", "text": texts.text(rng)}).encode()).replace(
                b"\n", b""
            )
        case _:
            return json.dumps({"file_name": "0.png", "text": texts.text(rng)}).encode()
