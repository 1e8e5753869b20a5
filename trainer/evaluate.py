"""`superbatch evaluate`: how well a finished model retrieves, on a held-out corpus.

Enters: a model's workdir and a corpus, in which several rows may share an image (`image_id`). Leaves: recall at 1, 5
and 10 in both directions, as fractions: text → image over distinct images, image → text where any of the image's own
captions counts.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.errors import DataError
from trainer import model as models

RANKS = (1, 5, 10)
_BATCH = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Retrieval of a model on a corpus: R@1, R@5 and R@10, both ways."""

    checkpoint: str
    """workdir of a finished `train` or `distill`, or a big_vision SigLIP checkpoint (.npz)"""
    corpus: str
    """directory of the held-out corpus"""
    output: str | None = None
    """also write the figures to this JSON file"""
    json: bool = False
    """print one JSON object instead of a line"""
    preset: str | None = None
    """of an .npz: the size of its towers: tiny, S/16, B/16, L/16, So400m/14"""
    resolution: int | None = None
    """of an .npz: pixels a side that it was made for"""
    tokenizer: str | None = None
    """of an .npz: the SentencePiece model file that it was trained with"""
    decoder: str | None = None
    """of an .npz: how it saw images: big_vision (not antialiased; the default) or antialiased (as here)"""

    def __post_init__(self) -> None:
        _ = self.source  # checks that an .npz comes with what it needs

    @property
    def source(self) -> models.Source:
        """The model to evaluate."""
        return models.Source(self.checkpoint, self.preset, self.resolution, self.tokenizer, self.decoder)


def run(config: EvaluateConfig) -> dict[str, float]:
    """Evaluates a model; returns the figures by name (fractions and counts)."""
    model = config.source.load()
    manifest = manifests.read(config.corpus, kind="corpus")
    image, text, owner = embed_corpus(model, config.corpus, manifest)
    figures = retrieval(image, text, owner)
    if config.output is not None:
        evaluation = {"model": config.source.fingerprint(), "corpus": manifest.fingerprint, "figures": figures}
        storage.replace(config.output, json.dumps(evaluation, indent=2).encode() + b"\n")
    return figures


def is_current(config: EvaluateConfig) -> bool:
    """Says whether the output file holds the figures of this very model and corpus."""
    if config.output is None or not storage.as_path(config.output).exists():
        return False
    stored = json.loads(storage.as_path(config.output).read_text())
    corpus = manifests.read(config.corpus, kind="corpus")
    return (stored.get("model"), stored.get("corpus")) == (config.source.fingerprint(), corpus.fingerprint)


def embed_corpus(
    model: models.Model, directory: str, manifest: manifests.Manifest
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeds a corpus's distinct images and all its texts.

    Returns:
      images [images, d], texts [rows, d], and for every text the index of its image [rows].
    """
    index: dict[str, int] = {}
    images, texts, owner = [], [], []
    for examples in _batches(directory, manifest):
        pixels = np.stack([model.decode(e.image) for e in examples])
        tokens = model.tokenizer([e.text for e in examples])
        padding = _BATCH - len(examples)
        image, text = model.embed(
            np.pad(pixels, [(0, padding), (0, 0), (0, 0), (0, 0)]), np.pad(tokens, [(0, padding), (0, 0)])
        )
        texts.append(text[: len(examples)])
        for place, example in enumerate(examples):
            if example.image_id not in index:
                index[example.image_id] = len(index)
                images.append(image[place])
            owner.append(index[example.image_id])
    if not images:
        raise DataError(f"{directory} has no rows to evaluate on")
    return np.stack(images), np.concatenate(texts), np.array(owner)


def retrieval(image: np.ndarray, text: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """Recall at every rank of `RANKS`, both ways. A tie counts against the model."""
    similarity = text @ image.T  # [texts, images]
    own = np.take_along_axis(similarity, owner[:, None], axis=1)
    # Rank = how many wrong answers score at least as high.
    text_rank = (similarity >= own).sum(1) - 1
    is_own = owner[:, None] == np.arange(len(image))
    best_own = np.where(is_own, similarity, -np.inf).max(0)
    image_rank = ((similarity >= best_own) & ~is_own).sum(0)
    figures: dict[str, float] = {"images": len(image), "texts": len(text)}
    for k in RANKS:
        figures[f"text_to_image_recall_at_{k}"] = float((text_rank < k).mean())
        figures[f"image_to_text_recall_at_{k}"] = float((image_rank < k).mean())
    return figures


def _batches(directory: str, manifest: manifests.Manifest) -> Iterator[list[records.Example]]:
    reader = shards.open_dataset(directory, manifest)
    for first in range(0, len(reader), _BATCH):
        rows = range(first, min(first + _BATCH, len(reader)))
        yield [records.decode_example(record) for record in reader.read(rows)]
