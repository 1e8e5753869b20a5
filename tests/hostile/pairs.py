"""Hostile pairs in sound containers: whatever a pair holds, it must end as a row, a duplicate or a rejection."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests import raw
from tests.hostile import images, texts

FORMATS = ("folder", "webdataset", "parquet")
_EXTENSIONS = ("jpg", "JPEG", "png", "webp", "gif", "bmp", "tif", "tiff")
_PER_TAR = 100


@dataclass(frozen=True)
class Written:
    """A source to ingest, and where each of its pairs stands, as rows and rejections name it."""

    source: str
    places: list[str]


def generator(seed: int, format_: str, index: int) -> random.Random:
    """The randomness of one case: the same whatever comes before it."""
    return random.Random(f"{seed} {format_} {index}")


def write(folder: Path, format_: str, cases: int, seed: int) -> Written:
    """Writes so many cases in one format."""
    folder.mkdir(parents=True)
    return {"folder": _folder, "webdataset": _webdataset, "parquet": _parquet}[format_](folder, cases, seed)


def _folder(folder: Path, cases: int, seed: int) -> Written:
    lines, places = b"", []
    for index in range(cases):
        rng = generator(seed, "folder", index)
        name = f"{index:06d}.{rng.choice(_EXTENSIONS)}"
        (folder / name).write_bytes(images.image(rng))
        places.append(f"captions.jsonl@{len(lines)}::{name}")
        record = {"file_name": name, rng.choice(["text", "caption"]): texts.text(rng), "language": texts.text(rng)}
        lines += json.dumps(record, ensure_ascii=True).encode() + b"\n"
    (folder / "captions.jsonl").write_bytes(lines)
    return Written(f"folder:{folder}", places)


def _webdataset(folder: Path, cases: int, seed: int) -> Written:
    places = []
    for first in range(0, cases, _PER_TAR):
        members, name = [], f"{first:06d}.tar"
        for index in range(first, min(first + _PER_TAR, cases)):
            rng, key = generator(seed, "webdataset", index), f"{index:06d}"
            members.append((f"{key}.{rng.choice(_EXTENSIONS)}", images.image(rng)))
            if rng.random() < 0.5:
                members.append((f"{key}.txt", texts.raw(rng)))
            else:
                content = json.dumps({"caption": texts.text(rng), "url": texts.text(rng)}).encode()
                members.append((f"{key}.json", images.damaged(rng, content) if rng.random() < 0.2 else content))
            places.append(f"{name}::{key}")
        raw.write_tar(folder / name, members)
    return Written(f"webdataset:{folder}/*.tar", places)


def _parquet(folder: Path, cases: int, seed: int) -> Written:
    rngs = [generator(seed, "parquet", index) for index in range(cases)]
    found = pa.array([None if rng.random() < 0.02 else images.image(rng) for rng in rngs], pa.binary())
    # Parquet's writers do not look at what a string holds, and neither do all of those that fill them.
    captions = pa.array([None if rng.random() < 0.02 else texts.raw(rng) for rng in rngs], pa.binary()).view(
        pa.string()
    )
    urls = pa.array([texts.raw(rng) if rng.random() < 0.1 else b"http://x" for rng in rngs], pa.binary())
    table = pa.table({"image": found, "text": captions, "url": urls.view(pa.string())})
    pq.write_table(table, folder / "pairs.parquet", row_group_size=50)
    return Written(f"parquet:{folder}/*.parquet", [f"pairs.parquet@{index}" for index in range(cases)])
