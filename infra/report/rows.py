"""What the rows of the pool, the curated set and the controls are like, measured on a sample of each.

Enters: the manifests of a round's datasets. Leaves: for each, the lengths of its captions, the sizes of its pictures,
its languages and sources, and the reference's score. Rows were shuffled once for all, so the first are a random sample.
They are read in batches, and no picture is kept.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq

from infra.report import pictures
from infra.report.layout import CONTROLS, Layout
from schemas import index, records, shards, storage
from schemas import manifest as manifests

DATASETS = ("pool", "curated", *CONTROLS)
_BATCH = 256


@dataclass(kw_only=True)
class Survey:
    """What the first rows of a dataset are like; lists are in row order."""

    rows: int
    """of the dataset"""
    uids: list[str] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)
    """square roots of width × height, pixels"""
    languages: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """what the pairs really are, of those whose truth is known"""

    @property
    def seen(self) -> int:
        """The number of rows that were measured."""
        return len(self.uids)

    def noise(self, wrong: tuple[str, ...]) -> float | None:
        """The share of wrong pairs, of those whose truth is known; None if it is known of none."""
        known = sum(self.kinds.values())
        return sum(self.kinds[kind] for kind in wrong) / known if known else None


def survey(layout: Layout, limit: int, truth: Mapping[str, str]) -> dict[str, Survey]:
    """Measures the first `limit` rows of each dataset that is complete."""
    return {
        name: _survey(layout.path(name), manifest, limit, truth)
        for name in DATASETS
        if (manifest := layout.manifest(name)) is not None
    }


def _survey(directory: str, manifest: manifests.Manifest, limit: int, truth: Mapping[str, str]) -> Survey:
    found = Survey(rows=manifest.rows)
    for record in _records(directory, manifest, limit):
        example = records.decode_example(record)
        found.uids.append(example.uid)
        found.characters.append(len(example.text))
        found.sides.append((example.width * example.height) ** 0.5)
        found.languages[pictures.shown(example.language)] += 1
        found.sources[origin(example)] += 1
        if example.uid in truth:
            found.kinds[truth[example.uid]] += 1
    return found


def origin(example: records.Example) -> str:
    """Where a pair comes from, as it is shown: the host of its url, or the raw file that it was read from."""
    try:
        host = urlsplit(example.url).hostname
    except ValueError:
        host = None
    return pictures.shown(host or re.split("@|::", example.source, maxsplit=1)[0])


def all_uids(directory: str, manifest: manifests.Manifest) -> Iterator[list[str]]:
    """Yields the uids of all rows, in batches: from the index where there is one, else from the rows."""
    parts = [file.name for file in manifest.files if file.name.startswith(f"{index.DIRECTORY}/")]
    if not parts:
        for record in _records(directory, manifest, manifest.rows):
            yield [records.record_uid(record)]
    for name in sorted(parts):
        with (storage.as_path(directory) / name).open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["uid"]):
                yield batch["uid"].to_pylist()


def members(directory: str, manifest: manifests.Manifest, uids: list[str]) -> np.ndarray:
    """Says of each uid whether the dataset has it."""
    places = {uid: place for place, uid in enumerate(uids)}
    found = np.zeros(len(uids), bool)
    for batch in all_uids(directory, manifest):
        found[[places[uid] for uid in batch if uid in places]] = True
    return found


def reference_scores(layout: Layout, rows: int) -> np.ndarray | None:
    """The cosine between picture and text under the reference, of the first rows of the pool.

    NaN where a row could not be embedded; None if there are no embeddings of this pool.
    """
    manifest, pool = layout.manifest("embeddings"), layout.manifest("pool")
    if manifest is None or manifest.embeddings is None or pool is None:
        return None
    if manifest.parent("corpus").fingerprint != pool.fingerprint:
        return None
    info, found = manifest.embeddings, []
    reader = shards.open_dataset(layout.path("embeddings"), manifest)
    for first in range(0, min(rows, len(reader)), _BATCH):
        batch = reader.read(range(first, min(first + _BATCH, rows, len(reader))))
        decoded = [records.decode_embedding(record) for record in batch]
        image = records.unpack_vectors([e.image_embedding for e in decoded], info.dtype, info.image_width)
        text = records.unpack_vectors([e.text_embedding for e in decoded], info.dtype, info.text_width)
        valid = np.array([e.valid for e in decoded])
        found.append(np.where(valid, (image * text).sum(axis=-1), np.nan))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def reader_of(layout: Layout, name: str) -> Callable[[list[int]], list[records.Example]]:
    """Opens a dataset; what it returns reads the examples of rows, in the order asked."""
    manifest = layout.manifest(name)
    if manifest is None:
        return lambda _: []
    dataset = shards.open_dataset(layout.path(name), manifest)
    return lambda rows: [records.decode_example(record) for record in dataset.read(rows)]


def _records(directory: str, manifest: manifests.Manifest, limit: int) -> Iterator[bytes]:
    dataset = shards.open_dataset(directory, manifest)
    last = min(limit, len(dataset))
    for first in range(0, last, _BATCH):
        yield from dataset.read(range(first, min(first + _BATCH, last)))
