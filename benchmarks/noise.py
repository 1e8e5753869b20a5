"""Makes clean image-text pairs web-like, deterministically, and keeps the truth aside for scoring alone.

Enters: clean pairs. Leaves: files and captions with mismatched captions, boilerplate, exact duplicates and broken
files in stated shares, and for every stored pair's uid what it really is. Nothing that a job reads holds the truth.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from beam_pipelines.texts import TextLimits, normalise_caption
from schemas.identity import example_uid, keyed_order

_BOILERPLATE = ("IMG_{n:04d}.JPG", "DSC{n:05d}.jpg", "image", "photo", "untitled", "click to enlarge", "thumbnail {n}")


class Truth(StrEnum):
    """What a pair of the pool really is."""

    MATCHED = "matched"
    MISMATCHED = "mismatched"
    BOILERPLATE = "boilerplate"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A picture and one text. Pairs of a `family` show variants of one thing; they never get each other's captions."""

    family: str
    image: bytes
    suffix: str  # of the image file, with its dot
    text: str
    language: str


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Shares of all pairs, each in [0, 1]."""

    mismatched: float
    boilerplate: float
    duplicates: float
    broken: float


@dataclass(frozen=True)
class NoisyPair:
    """A pair of the pool; `truth` is None for a broken file, which no corpus can hold."""

    pair: Pair
    truth: Truth | None


def disjoint(parts: dict[str, list[Pair]]) -> dict[str, list[Pair]]:
    """Drops from every part the pairs whose very picture an earlier part has: Norway's flag is Svalbard's too."""
    seen: set[bytes] = set()
    left = {}
    for name, pairs in parts.items():
        left[name] = [pair for pair in pairs if pair.image not in seen]
        seen |= {pair.image for pair in pairs}
    return left


def corrupt(pairs: Sequence[Pair], noise: Noise, seed: int) -> list[NoisyPair]:
    """Returns the pool: every pair once, some with another's caption or boilerplate, then duplicates and broken files.

    A mismatched pair gets the caption of another family, in the same language.
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice(
        [Truth.MISMATCHED, Truth.BOILERPLATE, Truth.MATCHED],
        size=len(pairs),
        p=[noise.mismatched, noise.boilerplate, 1 - noise.mismatched - noise.boilerplate],
    )
    by_language: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        by_language.setdefault(pair.language, []).append(place)
    pool = []
    for place, pair in enumerate(pairs):
        text = pair.text
        if kind[place] == Truth.MISMATCHED:
            others = by_language[pair.language]
            while text == pair.text:
                other = pairs[others[rng.integers(len(others))]]
                text = pair.text if other.family == pair.family else other.text
        elif kind[place] == Truth.BOILERPLATE:
            text = str(rng.choice(_BOILERPLATE)).format(n=rng.integers(1, 9999))
        changed = Pair(family=pair.family, image=pair.image, suffix=pair.suffix, text=text, language=pair.language)
        pool.append(NoisyPair(changed, Truth(kind[place])))
    copies = rng.choice(len(pool), size=round(noise.duplicates * len(pool)), replace=False)
    broken = rng.choice(len(pool), size=round(noise.broken * len(pool)), replace=False)
    spoiled = [_spoil(pool[place].pair, rng) for place in broken]
    return [*pool, *(pool[place] for place in copies), *spoiled]


def _spoil(pair: Pair, rng: np.random.Generator) -> NoisyPair:
    """Truncates the file, or puts the web's favourite answer in its place."""
    image = pair.image[: len(pair.image) // 2] if rng.random() < 0.5 else b"<html><title>404 Not Found</title></html>"
    return NoisyPair(
        Pair(family=pair.family, image=image, suffix=pair.suffix, text=pair.text, language=pair.language), truth=None
    )


def write_folder(directory: Path, pairs: Sequence[Pair], seed: int) -> None:
    """Writes pairs as `folder:` reads them, in an order that says nothing about them; `captions.jsonl` goes last."""
    order = sorted(range(len(pairs)), key=lambda place: keyed_order(str(place), seed))
    lines = []
    for number, place in enumerate(order):
        pair = pairs[place]
        name = f"images/{number // 1000:03d}/{number:06d}{pair.suffix}"
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(pair.image)
        lines.append(json.dumps({"file_name": name, "text": pair.text, "language": pair.language}, ensure_ascii=False))
    (directory / "captions.jsonl").write_text("\n".join(lines) + "\n")


def write_truth(path: Path, pool: Sequence[NoisyPair]) -> None:
    """Writes {uid: truth} for every pair that a corpus can hold; the images must be such as ingest stores as read."""
    truth: dict[str, Truth] = {}
    for noisy in pool:
        if noisy.truth is not None:
            uid = example_uid(noisy.pair.image, normalise_caption(noisy.pair.text, TextLimits(min_letters=0)))
            # A caption that fits is no mismatch, even if it came from elsewhere.
            truth[uid] = Truth.MATCHED if truth.get(uid) == Truth.MATCHED else noisy.truth
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(truth))
