"""Rows that are too much alike: what an evaluation holds too (contamination), and what a dataset holds already.

Enters: rows in the order in which a dataset takes them, and the cached embeddings of their images. Leaves: the first
rows that are left, as many as the budget says, and those passed over on the way, with what they resemble and how much.

Two rows are alike if the embeddings of their images have a cosine similarity of at least a bound. The search is exact:
FAISS's flat index finds candidates in float32, and float64 decides, to six digits. It is greedy in the given order: of
rows that are alike, the first stays. A row that could not be embedded is like nothing.
"""

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from beam_pipelines import progress
from beam_pipelines.quotas import OTHERS, Quotas
from schemas import manifest as manifests
from schemas import records, shards
from schemas.errors import ConfigError, IntegrityError
from schemas.rejections import Reason

_BLOCK = 1024  # rows looked up at a time
_MARGIN = 1e-4  # more than float32 sums can be off
_DIGITS = 6
log = logging.getLogger(__name__)


class Embeddings:
    """The rows of an embeddings directory, and their vectors."""

    def __init__(self, directory: str):
        self.directory = directory
        self.manifest = manifests.read(directory, kind="embeddings")
        if self.manifest.embeddings is None:
            raise IntegrityError(f"{directory}: the manifest of embeddings lacks its `embeddings` section")
        self.info = self.manifest.embeddings
        self._reader = shards.open_dataset(directory, self.manifest)

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, rows: Sequence[int]) -> list[records.Embedding]:
        """The stored rows with these numbers."""
        return [records.decode_embedding(row) for row in self._reader.read(rows)]

    def images(self, stored: list[records.Embedding]) -> np.ndarray:
        """The unit vectors of their images, float32 [rows, width]; those of invalid rows are zero."""
        vectors = [row.image_embedding for row in stored]
        return records.unpack_vectors(vectors, self.info.dtype, self.info.image_width)

    def texts(self, stored: list[records.Embedding]) -> np.ndarray:
        """The unit vectors of their texts, likewise."""
        vectors = [row.text_embedding for row in stored]
        return records.unpack_vectors(vectors, self.info.dtype, self.info.text_width)


def check_library() -> None:
    """Raises ConfigError if there is nothing to search with."""
    if importlib.util.find_spec("faiss") is None:
        raise ConfigError(
            "decontaminate and near_duplicates need FAISS, which is not there: install superbatch[similar]"
        )


class Index:
    """Exact search among unit vectors, numbered as they come. In memory: 4 bytes × width a vector."""

    def __init__(self, width: int):
        import faiss

        self.uids: list[str] = []
        self._index: Any = faiss.IndexFlatIP(width)

    def add(self, uids: Sequence[str], vectors: np.ndarray) -> None:
        """Adds examples with their float32 vectors [rows, width]."""
        self.uids += uids
        self._index.add(np.ascontiguousarray(vectors))

    def alike(self, vectors: np.ndarray, bound: float) -> list[list[tuple[float, int]]]:
        """For each vector [rows, width], the (cosine, number) of all that reach the bound, most alike first."""
        starts, _, numbers = self._index.range_search(np.ascontiguousarray(vectors), bound - _MARGIN)
        found = []
        for vector, first, last in zip(vectors.astype(np.float64), starts[:-1], starts[1:], strict=True):
            near = numbers[first:last]
            cosines = self._index.reconstruct_batch(near).astype(np.float64) @ vector if len(near) else []
            pairs = [(round(float(cosine), _DIGITS), int(number)) for cosine, number in zip(cosines, near, strict=True)]
            found.append(sorted((p for p in pairs if p[0] >= bound), key=lambda pair: (-pair[0], pair[1])))
        return found


def read_index(embeddings: Embeddings) -> Index:
    """Reads all of an embeddings directory into an index."""
    index = Index(embeddings.info.image_width)
    for first in range(0, len(embeddings), _BLOCK):
        stored = embeddings.read(range(first, min(first + _BLOCK, len(embeddings))))
        index.add([row.uid for row in stored], embeddings.images(stored))
    return index


@dataclass(frozen=True)
class Bounds:
    """What a row must not resemble, and from which cosine in (0, 1] on it does."""

    evaluation: Index | None = None
    contaminated: float = 1.0
    near_duplicate: float | None = None


@dataclass(frozen=True)
class Passed:
    """A row that is not taken although there was room for it, and what it resembles."""

    row: int
    uid: str
    reason: Reason
    cosine: float
    other: str  # its uid


def take(
    ranking: Iterable[pa.Table],
    budget: int,
    embeddings: Embeddings,
    bounds: Bounds,
    tracked: progress.Progress,
    quotas: Quotas | None = None,
) -> Iterator[tuple[pa.Table, list[Passed]]]:
    """Takes the first `budget` rows of a ranking that resemble neither the evaluation nor a row that was taken before.

    Args:
      ranking: tables of `row`, `uid` and what else there is to know of each row, best first.
      budget: rows to take.
      embeddings: of the corpus that the rows are of.
      bounds: what counts as alike.
      tracked: told of the rows looked at.
      quotas: which rows there is room for, by their column `quota`; it counts those that there is none for.

    Yields:
      Rows taken, and those passed over between them; both in the ranking's order.

    Raises:
      IntegrityError: the embeddings are of other examples.
    """
    taken, before, quotas = 0, Index(embeddings.info.image_width), quotas or Quotas({}, budget)
    for table in ranking:
        for block in (table.slice(first, _BLOCK) for first in range(0, table.num_rows, _BLOCK)):
            if taken == budget:
                return
            stored = embeddings.read(block["row"].to_pylist())
            uids, vectors = [row.uid for row in stored], embeddings.images(stored)
            if uids != block["uid"].to_pylist():
                raise IntegrityError(f"{embeddings.directory} holds embeddings of other examples than were picked")
            groups = block["quota"].to_pylist() if "quota" in block.column_names else [OTHERS] * len(uids)
            places, over = _take_of_block(uids, vectors, before, bounds, budget - taken, groups, quotas)
            if bounds.near_duplicate is not None:
                before.add([uids[place] for place in places], vectors[places])
            taken += len(places)
            if line := tracked.count(len(uids), [reason for _, (reason, _, _) in over]):
                log.info("%s", line)
            passed = [Passed(block["row"][place].as_py(), uids[place], *why) for place, why in over]
            yield block.take(pa.array(places, pa.int64())), passed


def _take_of_block(
    uids: list[str],
    vectors: np.ndarray,
    before: Index,
    bounds: Bounds,
    room: int,
    groups: list[str],
    quotas: Quotas,
) -> tuple[list[int], list[tuple[int, tuple[Reason, float, str]]]]:
    """The places of a block that are taken; of those passed over also the reason, the cosine and the uid it is to."""
    nothing: list[list[tuple[float, int]]] = [[] for _ in uids]
    in_evaluation = earlier = within = nothing
    if bounds.evaluation is not None:
        in_evaluation = bounds.evaluation.alike(vectors, bounds.contaminated)
    if bounds.near_duplicate is not None:
        block = Index(vectors.shape[1])
        block.add(uids, vectors)
        earlier, within = (index.alike(vectors, bounds.near_duplicate) for index in (before, block))
    places, over = [], []
    for place in range(len(uids)):
        if len(places) == room:
            break
        if not quotas.admits(groups[place]):
            continue
        if bounds.evaluation is not None and in_evaluation[place]:
            cosine, number = in_evaluation[place][0]
            over.append((place, (Reason.CONTAMINATED, cosine, bounds.evaluation.uids[number])))
            continue
        alike = [(cosine, before.uids[number]) for cosine, number in earlier[place][:1]]
        alike += [(cosine, uids[number]) for cosine, number in within[place] if number in places][:1]
        if alike:
            over.append((place, (Reason.NEAR_DUPLICATE, *max(alike, key=lambda found: found[0]))))
        else:
            places.append(place)
            quotas.take(groups[place])
    return places, over
