"""Pictures and captions made of numbers, and the artifacts that the product's own commands make of them.

Enters: how many, how large, a seed. Leaves: a corpus, a reference of one step and its embeddings of the corpus, by
`superbatch ingest`, `train` and `embed`. A picture is a sum of random fields from coarse to fine, each three quarters
as strong as the one before: its JPEG is about as large, and takes about as long to decode, as a photograph's.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.noise import Pair, write_folder

SUPERBATCH = (sys.executable, "-W", "ignore", "-m", "infra.cli")
_ROOT = Path(__file__).parent.parent
_WORDS = [
    "red", "green", "blue", "round", "square", "big", "small", "old", "new", "wooden", "bright", "dark", "open",
    "empty", "quiet", "busy", "house", "river", "street", "dog", "cat", "boat", "table", "chair", "window", "tree",
    "hill", "child", "market", "bridge", "on", "under", "near", "behind", "with", "without", "two", "three", "many",
    "one",
]  # fmt: skip
_COARSEST = 4  # samples a side of the coarsest field
_CONTRAST = 40.0  # grey levels, of the coarsest field
_FALL = 0.75  # of the contrast, from a field to the next
_QUALITY = 90


@dataclass(frozen=True)
class Artifacts:
    """Directories of a corpus, and of a reference's embeddings of it."""

    corpus: str
    embeddings: str


def superbatch(*arguments: str) -> None:
    """Runs a command of the product in a process of its own; raises CalledProcessError if it fails."""
    subprocess.run([*SUPERBATCH, *arguments], cwd=_ROOT, env=environment(), check=True)


def said(*arguments: str) -> str:
    """Runs such a command; returns what it printed."""
    return subprocess.run(
        [*SUPERBATCH, *arguments], cwd=_ROOT, env=environment(), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def environment(**changes: str) -> dict[str, str]:
    """The environment of such a process: this one's, with this checkout's packages."""
    return os.environ | {"PYTHONPATH": str(_ROOT)} | changes


def pairs(count: int, pixels: int, seed: int = 0) -> Iterator[Pair]:
    """Yields pairs of a JPEG of `pixels` a side and a caption of four to twelve words."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        text = " ".join(rng.choice(_WORDS, rng.integers(4, 13)))
        yield Pair(family=str(number), image=picture(rng, pixels), suffix=".jpg", text=text, language="en")


def picture(rng: np.random.Generator, pixels: int) -> bytes:
    """A JPEG of random fields: 4 samples a side, 8 and so on, each enlarged smoothly and three quarters as strong."""
    canvas, side, contrast = np.full((pixels, pixels, 3), 128.0), _COARSEST, _CONTRAST
    while side <= pixels:
        grey, colour = rng.standard_normal((side, side, 1)), rng.standard_normal((side, side, 3))
        field = np.clip(128 + contrast * (0.8 * grey + 0.3 * colour), 0, 255).astype(np.uint8)
        enlarged = Image.fromarray(field).resize((pixels, pixels), Image.Resampling.BICUBIC)
        canvas += np.asarray(enlarged, float) - 128
        side, contrast = 2 * side, _FALL * contrast
    output = io.BytesIO()
    Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)).save(output, "JPEG", quality=_QUALITY)
    return output.getvalue()


def make(folder: Path, *, count: int, pixels: int, resolution: int, shards: int) -> Artifacts:
    """Makes the artifacts under a folder; the reference is `tiny`, at `resolution`."""
    write_folder(folder / "raw", list(pairs(count, pixels)), seed=0)
    made = Artifacts(str(folder / "corpus"), str(folder / "embeddings"))
    reference = str(folder / "reference")
    superbatch(
        "ingest", f"--source=folder:{folder / 'raw'}", "--name=generated", f"--output={made.corpus}",
        f"--shards={shards}", "--runner=FnApiRunner",
    )  # fmt: skip
    superbatch(
        "train", f"--corpus={made.corpus}", f"--workdir={reference}", f"--resolution={resolution}", "--steps=1",
        "--warmup_steps=0", "--batch_size=16", "--block_size=16",
    )  # fmt: skip
    superbatch(
        "embed", f"--corpus={made.corpus}", f"--reference={reference}", f"--output={made.embeddings}",
        "--runner=FnApiRunner",
    )  # fmt: skip
    return made
