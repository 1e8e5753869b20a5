"""From shards to super-batches: which rows a step sees, and how they are read.

The unit of reading is a block of consecutive rows (one batched read of each file; rows were shuffled when the
corpus was made). An epoch is a seeded permutation of the blocks, of which a step takes the next few; blocks that do
not fill a last step are left for another epoch's permutation. The position is a pure function of (seed, step), so
an iterator is rebuilt from the step alone.

The last block is filled up with the corpus's first rows, which are then marked as not valid: they are offered by
block 0, and no candidate may stand twice in a super-batch.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import grain.python as grain
import numpy as np

from schemas import manifest as manifests
from schemas import records, shards
from schemas.errors import ConfigError, IntegrityError
from trainer.decode import decode_image
from trainer.tokenizer import Tokenizer


class Candidates(TypedDict):
    """The candidates of one step, on the host. The two last are absent where no embeddings are read."""

    image: np.ndarray  # uint8 [B, resolution, resolution, 3]
    tokens: np.ndarray  # int32 [B, length]
    valid: np.ndarray  # bool [B]
    row: np.ndarray  # int64 [B], global rows of the corpus
    uid: np.ndarray  # str [B]
    block: np.ndarray  # int64 [blocks of a step]
    reference_image: NotRequired[np.ndarray]  # float32 [B, d*], unit norm
    reference_text: NotRequired[np.ndarray]  # float32 [B, d*], unit norm


@dataclass(frozen=True)
class Blocks:
    """How `rows` rows are cut into blocks, and in which order steps take them.

    With `rotate`, for training without selection, an epoch's blocks begin at a row of its own and wrap around: every
    block is whole, no row stands twice in an epoch, and the few that are left out differ from epoch to epoch.

    Raises:
      ConfigError: the corpus has fewer rows than one step needs.
    """

    rows: int
    size: int
    per_step: int
    seed: int
    rotate: bool = False

    def __post_init__(self) -> None:
        if self.rows < self.per_step * self.size:
            raise ConfigError(
                f"a step takes {self.per_step * self.size} rows and the corpus has {self.rows}: lower batch_size or "
                "filter_ratio, or use a larger corpus"
            )

    @property
    def count(self) -> int:
        """The number of blocks: the last one filled up, or, rotating, whole ones only."""
        return self.rows // self.size if self.rotate else -(-self.rows // self.size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every block but a remainder was offered once."""
        return self.count // self.per_step

    def of_step(self, step: int) -> np.ndarray:
        """Returns the block ids of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _permutation(self.count, self.seed, epoch)
        return order[place * self.per_step : (place + 1) * self.per_step]

    def rows_of(self, block: int, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns a block's global rows [size], and which of them are its own rather than filling."""
        rows = np.arange(block * self.size, (block + 1) * self.size, dtype=np.int64)
        if not self.rotate:
            return rows % self.rows, rows < self.rows
        epoch = step // self.steps_per_epoch
        begin = np.random.default_rng([self.seed, epoch, _ROTATION]).integers(self.rows)
        return (begin + rows) % self.rows, np.ones(self.size, bool)


_ROTATION = 1  # a stream of random numbers beside the permutation's


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class CachedReference:
    """Embedding rows beside a corpus, and how to read them."""

    reader: shards.DatasetReader
    info: manifests.EmbeddingInfo

    def read(self, rows: list[int], uids: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns image vectors, text vectors (float32 [rows, width], unit norm) and which rows are valid.

        Raises:
          IntegrityError: a row belongs to another example than the corpus row.
        """
        stored = [records.decode_embedding(record) for record in self.reader.read(rows)]
        for row, uid, embedding in zip(rows, uids, stored, strict=True):
            if embedding.uid != uid:
                raise IntegrityError(
                    f"row {row} is {uid} in the corpus and {embedding.uid} in the embeddings {self.reader.directory}: "
                    "they are not aligned. Embed this corpus again"
                )
        return (
            records.unpack_vectors([e.image_embedding for e in stored], self.info.dtype, self.info.image_width),
            records.unpack_vectors([e.text_embedding for e in stored], self.info.dtype, self.info.text_width),
            np.array([e.valid for e in stored]),
        )


@dataclass(frozen=True)
class BlockLoader:
    """Reads, decodes and tokenises the k-th block of the run. Picklable; safe to call from several threads."""

    corpus: shards.DatasetReader
    blocks: Blocks
    tokenizer: Tokenizer
    resolution: int
    reference: CachedReference | None = None

    def __call__(self, k: int) -> Candidates:
        """Returns the candidates of one block.

        Raises:
          IntegrityError: a row is not what its embedding, or ingest's check, says.
        """
        step, place = divmod(int(k), self.blocks.per_step)
        block = int(self.blocks.of_step(step)[place])
        rows, own = self.blocks.rows_of(block, step)
        examples = [records.decode_example(record) for record in self.corpus.read(rows.tolist())]
        candidates = Candidates(
            image=np.stack([self._decode(int(r), e.image) for r, e in zip(rows, examples, strict=True)]),
            tokens=self.tokenizer([e.text for e in examples]),
            valid=own,
            row=rows,
            uid=np.array([e.uid for e in examples]),
            block=np.array([block]),
        )
        if self.reference is not None:
            image, text, valid = self.reference.read(rows.tolist(), [e.uid for e in examples])
            candidates["reference_image"], candidates["reference_text"] = image, text
            candidates["valid"] = own & valid
        return candidates

    def _decode(self, row: int, image: bytes) -> np.ndarray:
        try:
            return decode_image(image, self.resolution)
        except OSError as error:
            raise IntegrityError(
                f"row {row} of {self.corpus.directory} cannot be decoded, and ingest had checked it: {error}"
            ) from None


def iterate(loader: BlockLoader, first_step: int, last_step: int, workers: int) -> Iterator[Candidates]:
    """Yields the candidates of steps `first_step` to `last_step` (exclusive), read ahead by `workers` threads."""
    per_step = loader.blocks.per_step
    blocks = grain.MapDataset.range(first_step * per_step, last_step * per_step).map(loader)
    # The queue holds two steps: one being copied out while the next is read.
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=max(2 * per_step, workers))
    steps = blocks.to_iter_dataset(options).batch(per_step, batch_fn=_concatenate)
    return iter(steps)


def _concatenate(parts: Sequence[Candidates]) -> Candidates:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}  # type: ignore[return-value]
