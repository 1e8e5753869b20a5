"""Flickr8k as a noisy pool: real photos with five human captions each, corrupted in stated shares.

Enters: the folder of WebDataset tars `train-*.tar` and `dev-*.tar` (`<key>.jpg` and `<key>.json` with `captions`). The
photos are for research use only and are not distributed with this project. Leaves: a clean `seed`, a clean `evaluation`
set, a noisy `pool` and `truth.json`, as the demo has them.
"""

import json
import logging
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import noise
from schemas.errors import DataError
from schemas.identity import keyed_order

NOISE = noise.Noise(mismatched=0.5, boilerplate=0.05, duplicates=0.03, broken=0.01)
SEED = 2406_17711
CREDIT = "Pictures: Flickr8k, for research use only; not to be redistributed."
_SEED_PHOTOS = 1000
log = logging.getLogger(__name__)


def make(directory: Path, data: Path) -> None:
    """Makes all sources, once: a directory with `truth.json` is complete and stays as it is.

    Raises:
      DataError: the tars are not in `data`.
    """
    if (directory / "truth.json").exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    parts = clean_parts(data)
    pool = noise.corrupt(parts["pool"], NOISE, SEED)
    noise.write_folder(directory / "seed", parts["seed"], SEED)
    noise.write_folder(directory / "evaluation", parts["evaluation"], SEED)
    noise.write_folder(directory / "pool", [noisy.pair for noisy in pool], SEED)
    noise.write_truth(directory / "truth.json", pool)


def clean_parts(data: Path) -> dict[str, list[noise.Pair]]:
    """Reads the clean pairs of `seed`, `evaluation` and `pool`: a photo's captions follow one another.

    Raises:
      DataError: the tars are not in `data`.
    """
    log.info("reading Flickr8k from %s", data)
    train = sorted(_photos(data, "train-*.tar"), key=lambda photo: keyed_order(photo[0].family, SEED))
    parts = {
        "evaluation": [pair for photo in _photos(data, "dev-*.tar") for pair in photo],
        "seed": [pair for photo in train[:_SEED_PHOTOS] for pair in photo],
        "pool": [pair for photo in train[_SEED_PHOTOS:] for pair in photo],
    }
    return noise.disjoint(parts)


def _photos(data: Path, pattern: str) -> Iterator[list[noise.Pair]]:
    """Yields every photo as its pairs, one for each caption."""
    paths = sorted(data.glob(pattern))
    if not paths:
        raise DataError(f"{data} has no {pattern}: --data must name the folder of Flickr8k's WebDataset tars")
    for path in paths:
        with tarfile.open(path) as tar:
            images: dict[str, bytes] = {}
            texts: dict[str, list[str]] = {}
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                file = tar.extractfile(member)
                if file is None:
                    continue
                if suffix == "json":
                    texts[key] = json.load(file)["captions"]
                else:
                    images[key] = file.read()
        for key, captions in sorted(texts.items()):
            yield [
                noise.Pair(family=key, image=images[key], suffix=".jpg", text=text.strip(), language="en")
                for text in captions
            ]
