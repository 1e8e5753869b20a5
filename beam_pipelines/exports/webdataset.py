"""`webdataset`: tar files for open_clip, the `webdataset` package and DataComp's tools.

`NAME-{00000..00007}.tar` holds of each row three members, one after another: `UID.jpg` or `UID.png`, by what the bytes
are; `UID.txt`, the text; `UID.json`, everything else. `sizes.json` says how many rows a tar has, which open_clip needs
to know how long an epoch is, and `NAME-00000_stats.json` says it for each tar as img2dataset does.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from beam_pipelines.exports import Dataset, Task, examples, metadata
from schemas import manifest as manifests
from schemas import storage
from schemas.errors import IntegrityError
from schemas.identity import canonical_json

SIZES = "sizes.json"
_FORMATS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}  # by the first bytes


class WebDataset:
    """One tar for each shard."""

    def shard_name(self, dataset: Dataset, index: int) -> str:
        """Numbered from 0 without gaps, so that a range in braces names them all."""
        return f"{dataset.info.name}-{index:05d}.tar"

    def write(self, path: Path, dataset: Dataset, task: Task, rows: Iterable[bytes]) -> None:
        """Writes the members of each row; nothing in a tar says when or by whom it was made."""
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for example in examples(dataset, task, rows):
                members = {
                    _extension(example.image, task, example.uid): example.image,
                    "txt": example.text.encode(),
                    "json": canonical_json(metadata(example)),
                }
                for extension, content in members.items():
                    _add(tar, f"{example.uid}.{extension}", content)

    def beside(self, shard: str, rows: int) -> dict[str, bytes]:
        """How many rows a tar has, in the words of img2dataset."""
        return {f"{shard.removesuffix('.tar')}_stats.json": json.dumps({"count": rows, "successes": rows}).encode()}

    def complete(
        self, output: str, dataset: Dataset, written: list[manifests.Shard]
    ) -> tuple[list[manifests.Shard], list[manifests.File]]:
        """Writes how many rows each tar has."""
        sizes = json.dumps({shard.name: shard.rows for shard in written}, indent=2).encode()
        storage.replace(storage.as_path(output) / SIZES, sizes)
        contents = {SIZES: sizes}
        for shard in written:
            contents |= self.beside(shard.name, shard.rows)
        return written, [_describe(name, content) for name, content in contents.items()]


def _extension(image: bytes, task: Task, uid: str) -> str:
    for begin, extension in _FORMATS.items():
        if image.startswith(begin):
            return extension
    raise IntegrityError(f"{task}: the image of {uid} is neither JPEG nor PNG; it begins with {image[:8].hex()}")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of time 0 and nobody's
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))
    tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all


def _describe(name: str, content: bytes) -> manifests.File:
    return manifests.File(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
