"""From shards to super-batches: which rows a step sees, and how they are read.

The unit of reading is a block of consecutive rows (one batched read of each file; rows were shuffled when the
corpus was made). An epoch is a seeded permutation of the blocks, of which a step takes the next few; blocks that do
not fill a last step are left for another epoch's permutation. The position is a pure function of (seed, step), so
an iterator is rebuilt from the step alone.

The last block is filled up with the corpus's first rows, which are then marked as not valid: they are offered by
block 0, and no candidate may stand twice in a super-batch.

Of several processes, each reads an equal share of a step's blocks. Where picks are decoded anew, at more pixels than
they were scored at, each process decodes an equal share of them as well: from the bytes it holds, or, if another
process read them, from the shards.
"""

import concurrent.futures
import functools
import os
import signal
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import absl.flags
import grain.python as grain
import numpy as np

from schemas import records, shards
from schemas.errors import ConfigError, IntegrityError
from trainer.augment import augment
from trainer.cached_reference import CachedReference
from trainer.decode import ANTIALIASED, decode_image
from trainer.tokenizer import Tokenizer


class Rows(TypedDict):
    """Rows of a corpus on the host: one step's, or this process's share of them. What is not read is absent."""

    image: np.ndarray  # uint8 [rows, resolution, resolution, 3]
    tokens: np.ndarray  # int32 [rows, length]
    valid: np.ndarray  # bool [rows]
    row: np.ndarray  # int64 [rows], global rows of the corpus
    uid: np.ndarray  # str [rows]
    encoded: NotRequired[np.ndarray]  # object [rows], images as they are stored
    reference_image: NotRequired[np.ndarray]  # float32 [rows, d*], unit norm
    reference_text: NotRequired[np.ndarray]  # float32 [rows, d*], unit norm
    weight: NotRequired[np.ndarray]  # float32 [rows], what each row counts for


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

    def rows_of_step(self, step: int) -> np.ndarray:
        """Returns the global rows [B] of a step's candidates, in their order."""
        return np.concatenate([self.rows_of(int(block), step)[0] for block in self.of_step(step)])

    def rows_of(self, block: int, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns a block's global rows [size], and which of them are its own rather than filling."""
        rows = np.arange(block * self.size, (block + 1) * self.size, dtype=np.int64)
        if not self.rotate:
            return rows % self.rows, rows < self.rows
        epoch = step // self.steps_per_epoch
        begin = np.random.default_rng([self.seed, epoch, _ROTATION]).integers(self.rows)
        return (begin + rows) % self.rows, np.ones(self.size, bool)


_ROTATION, _AUGMENTATION = 1, 2  # streams of random numbers beside the permutation's


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class BlockLoader:
    """Reads, decodes and tokenises blocks of the run. Picklable; safe to call from several threads."""

    corpus: shards.DatasetReader
    blocks: Blocks
    tokenizer: Tokenizer
    resolution: int
    decoder: str = ANTIALIASED
    reference: CachedReference | None = None
    keep_encoded: bool = False  # picks will be decoded anew
    weighted: bool = False  # read what each row counts for
    augment: bool = False  # mirror and shift pictures at random
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.blocks.per_step % self.processes:
            rows = self.blocks.per_step * self.blocks.size
            raise ConfigError(
                f"a step reads {self.blocks.per_step} blocks of {self.blocks.size} rows, which {self.processes} "
                f"processes cannot share equally: choose a block_size that divides {rows} / {self.processes}"
            )

    @property
    def own_per_step(self) -> int:
        """The blocks of a step that this process reads."""
        return self.blocks.per_step // self.processes

    def __call__(self, k: int) -> Rows:
        """Returns the rows of the k-th block that this process reads.

        Raises:
          IntegrityError: a row is not what its embedding, or ingest's check, says.
        """
        step, place = divmod(int(k), self.own_per_step)
        place += self.process * self.own_per_step
        block = int(self.blocks.of_step(step)[place])
        row, own = self.blocks.rows_of(block, step)
        examples = [records.decode_pair(record) for record in self.corpus.read(row.tolist())]
        images = [example.image for example in examples]
        rows = Rows(
            image=self.decode(row, images, self.resolution),
            tokens=self.tokenizer([e.text for e in examples]),
            valid=own,
            row=row,
            uid=np.array([e.uid for e in examples]),
        )
        if self.augment:
            rng = np.random.default_rng([self.blocks.seed, step, place, _AUGMENTATION])
            rows["image"] = augment(rows["image"], rng)
        if self.keep_encoded:
            rows["encoded"] = np.array([*images, None])[:-1]  # the None keeps NumPy from looking into the bytes
        if self.weighted:
            rows["weight"] = np.array([self._weight(int(place), e) for place, e in zip(row, examples, strict=True)])
        if self.reference is not None:
            image, text, valid = self.reference.read(row.tolist(), [e.uid for e in examples])
            rows["reference_image"], rows["reference_text"] = image, text
            rows["valid"] = own & valid
        return rows

    def decode(self, rows: np.ndarray, images: Sequence[bytes], resolution: int) -> np.ndarray:
        """Decodes the images of these global rows: uint8 [rows, resolution, resolution, 3]."""
        return np.stack([self._decode(int(row), image, resolution) for row, image in zip(rows, images, strict=True)])

    def _weight(self, row: int, example: records.Pair) -> np.float32:
        if example.weight is None:
            raise IntegrityError(
                f"row {row} of {self.corpus.directory} has no selection/weight, and its manifest says so"
            )
        return np.float32(example.weight)

    def _decode(self, row: int, image: bytes, resolution: int) -> np.ndarray:
        try:
            return decode_image(image, resolution, self.decoder)
        except OSError as error:
            raise IntegrityError(
                f"row {row} of {self.corpus.directory} cannot be decoded, and ingest had checked it: {error}"
            ) from None


def iterate(
    loader: BlockLoader, first_step: int, last_step: int, threads: int, processes: int = 0
) -> Generator[Rows, None, None]:
    """Yields this process's rows of steps `first_step` to `last_step` (exclusive), in order; to be closed when done.

    They are read ahead: block by block by `threads` threads of this process, or step by step by `processes` processes
    with as many threads each.
    """
    own, left = loader.own_per_step, last_step - first_step
    blocks = grain.MapDataset.range(first_step * own, last_step * own).map(loader)
    if processes:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        workers = grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=1)
        if not absl.flags.FLAGS.is_parsed():  # Grain reads its own, and our commands parse none of absl's
            absl.flags.FLAGS.mark_as_parsed()
        steps = iter(
            blocks.batch(own, batch_fn=_concatenate).to_iter_dataset(options).mp_prefetch(workers, _init_worker)
        )
    else:
        # The queue holds two steps: one being copied out while the next is read.
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * own, threads))
        steps = iter(blocks.to_iter_dataset(options).batch(own, batch_fn=_concatenate))
    try:
        while left:
            left -= 1
            yield next(steps)
    finally:
        if left:
            steps.close()
        else:
            next(steps, None)  # at their end, Grain's processes give back what they share


def _init_worker(_index: int, _count: int) -> None:
    """Leaves stopping to the process that reads from this one, and ends with it: signals often go to a whole group."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class PickDecoder:
    """Decodes this process's share of a step's picks at the resolution that is learned from."""

    def __init__(self, loader: BlockLoader, resolution: int, threads: int):
        self._loader, self._resolution = loader, resolution
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "decode picks")

    def __call__(self, step: int, held: Rows, picks: np.ndarray) -> np.ndarray:
        """Returns uint8 [picks, resolution, resolution, 3].

        Args:
          held: what this process read of the step.
          picks: indices into the super-batch.
        """
        if "encoded" not in held:
            raise ValueError("the loader was not asked to keep the encoded images")
        rows = self._loader.blocks.rows_of_step(step)[picks]
        places = picks - self._loader.process * len(held["row"])
        here = (places >= 0) & (places < len(held["row"]))
        images = np.empty(len(picks), object)
        images[here] = held["encoded"][places[here]]
        images[~here] = [records.decode_pair(r).image for r in self._loader.corpus.read(rows[~here].tolist())]
        pieces = np.array_split(np.arange(len(picks)), min(len(picks), 4 * self._threads._max_workers))
        decoded = self._threads.map(
            lambda p: self._loader.decode(rows[p], images[p].tolist(), self._resolution), pieces
        )
        return np.concatenate(list(decoded))


def _concatenate(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}  # type: ignore[return-value]
