"""The study's data in memory: OpenMoji or Flickr8k, with a stated share of the pool's captions swapped.

Enters: a corpus's name, a share of mismatched captions, and for Flickr8k the folder of its tars. Leaves: pixels and
token ids of a clean seed, a noisy pool and a clean evaluation set, disjoint in pictures. The truth about the pool is
carried along to score what was picked; no selection sees it.
"""

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import noise
from benchmarks.flickr8k import sources as flickr8k
from benchmarks.openmoji import sources as openmoji
from schemas.errors import ConfigError
from schemas.identity import example_uid, keyed_order
from trainer import tokenizer
from trainer.decode import decode_image

NAMES = ("openmoji", "flickr8k")
VOCABULARY = {"openmoji": 600, "flickr8k": 2000}  # as the rounds have it
PIXELS = 64
TEXT_LENGTH = 16  # tokens
ORDER = 2406_17711  # a key
EVALUATED_CAPTIONS = 2  # of each picture: more cost more than the steps between two evaluations
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Examples as a model sees them, in an order that says nothing about them."""

    image: np.ndarray  # uint8 [n, pixels, pixels, 3]
    tokens: np.ndarray  # int32 [n, length]
    uid: np.ndarray  # uint8 [n, 16]
    picture: np.ndarray  # int [n]: pairs with equal numbers show the same picture
    matched: np.ndarray  # bool [n]: the caption is the picture's own

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: np.ndarray) -> "Pairs":
        """Returns some rows, in this order."""
        return Pairs(self.image[rows], self.tokens[rows], self.uid[rows], self.picture[rows], self.matched[rows])

    def of_pictures(self, count: int) -> "Pairs":
        """Returns the pairs of the first `count` pictures."""
        return self.take(np.flatnonzero(self.picture < count))

    @property
    def fingerprint(self) -> str:
        """sha256 of the uids in order: of pixels, captions and which belongs to which."""
        return hashlib.sha256(self.uid.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Corpus:
    """Everything that runs on one corpus at one noise level read."""

    name: str
    noise: float
    seed: Pairs
    pool: Pairs
    evaluation: Pairs
    vocabulary: int


@functools.lru_cache(maxsize=4)
def load(name: str, mismatched: float, seed: int, data: Path | None) -> Corpus:
    """Decodes, tokenises and corrupts a corpus; the same arguments give the same arrays.

    Args:
      name: one of `NAMES`.
      mismatched: the share of the pool's pairs that get another picture's caption.
      seed: decides which ones, and whose. The split, the order of rows and the tokenizer are always the same.
      data: the folder of Flickr8k's tars; OpenMoji comes with a package.

    Raises:
      ConfigError: an unknown name, or Flickr8k without its folder.
      DataError: the tars are not there.
    """
    parts = _clean_parts(name, data)
    nothing_else = noise.Noise(mismatched=mismatched, boilerplate=0.0, duplicates=0.0, broken=0.0)
    noisy = noise.corrupt(parts["pool"], nothing_else, seed)
    tokens = tokenizer.train((pair.text for pair in parts["pool"]), VOCABULARY[name], TEXT_LENGTH)
    matched = np.array([pair.truth == noise.Truth.MATCHED for pair in noisy])
    evaluation = _pairs(parts["evaluation"], tokens)
    rank = _rank_within(evaluation.picture)
    return Corpus(
        name=name,
        noise=mismatched,
        seed=_pairs(parts["seed"], tokens),
        pool=_pairs([n.pair for n in noisy], tokens, matched),
        evaluation=evaluation.take(np.flatnonzero(rank < EVALUATED_CAPTIONS)),
        vocabulary=tokens.vocabulary,
    )


@functools.lru_cache(maxsize=2)
def _clean_parts(name: str, data: Path | None) -> dict[str, list[noise.Pair]]:
    if name == "openmoji":
        return openmoji.clean_parts()
    if name != "flickr8k":
        raise ConfigError(f"corpus is {name!r}; it must be one of {', '.join(NAMES)}")
    if data is None:
        raise ConfigError("flickr8k needs --data: the folder with its train-*.tar and dev-*.tar")
    return flickr8k.clean_parts(data)


def _pairs(pairs: Sequence[noise.Pair], tokens: tokenizer.Tokenizer, matched: np.ndarray | None = None) -> Pairs:
    """Decodes and shuffles: every prefix is a random sample, as rows of a corpus are."""
    truth = np.ones(len(pairs), bool) if matched is None else matched
    uids = [example_uid(pair.image, pair.text) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda place: keyed_order(f"{uids[place]} {place}", ORDER))
    numbers: dict[bytes, int] = {}
    for place in order:
        numbers.setdefault(pairs[place].image, len(numbers))
    decoded = np.stack([decode_image(image, PIXELS) for image in numbers])
    return Pairs(
        image=decoded[[numbers[pairs[place].image] for place in order]],
        tokens=tokens([pairs[place].text for place in order]),
        uid=np.frombuffer(bytes.fromhex("".join(uids[place] for place in order)), np.uint8).reshape(-1, 16),
        picture=np.array([numbers[pairs[place].image] for place in order]),
        matched=truth[order],
    )


def _rank_within(group: np.ndarray) -> np.ndarray:
    """For every element, how many equal ones stand before it."""
    seen: dict[int, int] = {}
    ranks = np.empty(len(group), int)
    for place, key in enumerate(group.tolist()):
        ranks[place] = seen.get(key, 0)
        seen[key] = ranks[place] + 1
    return ranks
