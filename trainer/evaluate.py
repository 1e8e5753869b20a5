"""`superbatch evaluate`: how well a finished model retrieves and classifies, on held-out corpora.

Enters: a model's workdir or checkpoint, and a corpus of captions, a labelled corpus (its `text` is the name of the
image's class), or both. Several rows may share an image (`image_id`). Leaves: recall at 1, 5 and 10 in both directions,
as fractions: text → image over distinct images, image → text where any of the image's own captions counts; and the
accuracies of `trainer.classification` over distinct images.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.errors import ConfigError, DataError
from trainer import classification
from trainer import model as models
from trainer.classification import LabelledImages

RANKS = (1, 5, 10)
_BATCH = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Retrieval of a model on a corpus (R@1, R@5 and R@10, both ways), and its accuracy as a classifier."""

    checkpoint: str
    """workdir of a finished `train` or `distill`, or a big_vision SigLIP checkpoint (.npz)"""
    corpus: str | None = None
    """directory of a held-out corpus of captions: measures retrieval"""
    labelled: str | None = None
    """directory of a held-out corpus whose texts are the names of the images' classes: measures zero-shot accuracy"""
    templates: str | None = None
    """text file of zero-shot prompts, one a line with {} for the class's name; CLIP's best seven if not given"""
    shots_from: str | None = None
    """directory of another labelled corpus, of the same classes: a linear classifier learns from a few images of it"""
    shots: int = 10
    """images of each class that the linear classifier learns from"""
    output: str | None = None
    """also write the figures to this JSON file; if it holds those of the same inputs already, nothing is done"""
    json: bool = False
    """print one JSON object instead of a line"""
    preset: str | None = None
    """of an .npz: the size of its towers: nano, tiny, S/16, B/16, L/16, So400m/14"""
    resolution: int | None = None
    """of an .npz: pixels a side that it was made for"""
    tokenizer: str | None = None
    """of an .npz: the SentencePiece model file that it was trained with"""
    decoder: str | None = None
    """of an .npz: how it saw images: big_vision (not antialiased; the default) or antialiased (as here)"""

    def __post_init__(self) -> None:
        if self.corpus is None and self.labelled is None:
            raise ConfigError(
                "nothing to evaluate on: give --corpus for retrieval, --labelled for classification, or both"
            )
        for field in ("templates", "shots_from"):
            if getattr(self, field) is not None and self.labelled is None:
                raise ConfigError(f"{field} is {getattr(self, field)!r}; it needs --labelled, the images to classify")
        if self.shots < 1:
            raise ConfigError(f"shots is {self.shots}; it must be at least 1")
        _ = self.source  # checks that an .npz comes with what it needs

    @property
    def source(self) -> models.Source:
        """The model to evaluate."""
        return models.Source(self.checkpoint, self.preset, self.resolution, self.tokenizer, self.decoder)


def run(config: EvaluateConfig) -> dict[str, float]:
    """Evaluates a model; returns the figures by name (fractions and counts)."""
    if is_current(config):
        log.info("%s is complete already: nothing to do", config.output)
        return _stored(config)["figures"]
    labels = read_labels(config)  # what can be wrong with them is found before the model is loaded
    figures = measure(config.source.load(), config, labels)
    if config.output is not None:
        evaluation = _inputs(config) | {"figures": figures}
        storage.replace(config.output, json.dumps(evaluation, indent=2).encode() + b"\n")
    return figures


@dataclass(frozen=True)
class Labels:
    """What classification needs beside a model."""

    templates: tuple[str, ...]
    labelled: LabelledImages
    shots_from: LabelledImages | None


def read_labels(config: EvaluateConfig) -> Labels | None:
    """Reads and checks everything that classification needs, if it is asked for.

    Raises:
      ConfigError, DataError, IntegrityError: templates, classes or shots that cannot be used; says which and why.
    """
    if config.labelled is None:
        return None
    templates, labelled = _read_templates(config), _gather(config.labelled)
    shots_from = None if config.shots_from is None else _gather(config.shots_from)
    if shots_from is not None:
        classification.check_shots(labelled, shots_from, config.shots)
    return Labels(templates, labelled, shots_from)


def measure(model: models.Model, config: EvaluateConfig, labels: Labels | None) -> dict[str, float]:
    """Measures everything that the config asks for, of this model."""
    figures: dict[str, float] = {}
    if config.corpus is not None:
        figures |= retrieval(*embed_corpus(model, config.corpus, manifests.read(config.corpus, kind="corpus")))
    if labels is not None:
        images = _embed_images(model, labels.labelled.corpus, labels.labelled.rows)
        figures |= _zero_shot(model, labels.templates, labels.labelled, images)
        if labels.shots_from is not None:
            accuracy = _linear(model, config.shots, labels.shots_from, labels.labelled, images)
            figures[f"linear_{config.shots}_shot_accuracy"] = accuracy
    return figures


def is_current(config: EvaluateConfig) -> bool:
    """Says whether the output file holds the figures of this very model, these corpora, templates and shots."""
    stored = _stored(config)
    return "figures" in stored and all(stored.get(name) == value for name, value in _inputs(config).items())


def _stored(config: EvaluateConfig) -> dict[str, Any]:
    """What an earlier evaluation wrote; empty if there is none, or the file is something else."""
    if config.output is None or not storage.as_path(config.output).exists():
        return {}
    try:
        stored = json.loads(storage.as_path(config.output).read_text())
    except ValueError:
        return {}
    return stored if isinstance(stored, dict) else {}


def _inputs(config: EvaluateConfig) -> dict[str, Any]:
    """Everything that decides the figures; what was not asked for is None."""

    def fingerprint(directory: str | None) -> str | None:
        return None if directory is None else manifests.read(directory, kind="corpus").fingerprint

    return {
        "model": config.source.fingerprint(),
        "corpus": fingerprint(config.corpus),
        "labelled": fingerprint(config.labelled),
        "templates": None if config.labelled is None else list(_read_templates(config)),
        "shots_from": fingerprint(config.shots_from),
        "shots": None if config.shots_from is None else config.shots,
    }


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
        pixels, tokens = _pixels(model, examples), model.tokenizer([e.text for e in examples])
        image, text = model.embed(_padded(pixels), _padded(tokens))
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
    text_rank = (~(similarity < own)).sum(1) - 1  # so written, what is not a number counts against the model too
    is_own = owner[:, None] == np.arange(len(image))
    best_own = np.where(is_own, similarity, -np.inf).max(0)
    image_rank = (~(similarity < best_own) & ~is_own).sum(0)
    figures: dict[str, float] = {"images": len(image), "texts": len(text)}
    for k in RANKS:
        figures[f"text_to_image_recall_at_{k}"] = float((text_rank < k).mean())
        figures[f"image_to_text_recall_at_{k}"] = float((image_rank < k).mean())
    return figures


def _zero_shot(
    model: models.Model, templates: tuple[str, ...], labelled: LabelledImages, images: np.ndarray
) -> dict[str, float]:
    classes = labelled.classes
    embedded = _embed_texts(model, classification.prompts(classes, templates))
    names = classification.class_embeddings(embedded.reshape(len(classes), len(templates), -1))
    return {
        "zero_shot_accuracy": classification.accuracy(images @ names.T, labelled.labels(classes)),
        "classes": len(classes),
        "labelled_images": len(images),
    }


def _linear(
    model: models.Model, shots: int, shots_from: LabelledImages, labelled: LabelledImages, images: np.ndarray
) -> float:
    """The mean accuracy over the seeds. Only what is drawn is embedded."""
    classes = shots_from.classes
    labels = shots_from.labels(classes)
    draws = [classification.draw(labels, shots, seed) for seed in classification.SEEDS]
    drawn = np.unique(np.concatenate(draws))
    embedded = _embed_images(model, shots_from.corpus, [shots_from.rows[i] for i in drawn])
    accuracies = []
    for points in draws:
        classifier = classification.fit(embedded[np.searchsorted(drawn, points)], labels[points], len(classes))
        accuracies.append(classification.accuracy(classifier(images), labelled.labels(classes)))
    return float(np.mean(accuracies))


def _read_templates(config: EvaluateConfig) -> tuple[str, ...]:
    if config.templates is None:
        return classification.TEMPLATES
    try:
        lines = storage.as_path(config.templates).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"templates {config.templates} cannot be read: {error}") from None
    templates = tuple(line.strip() for line in lines if line.strip())
    classification.check_templates(templates, config.templates)
    return templates


def _gather(directory: str) -> LabelledImages:
    manifest = manifests.read(directory, kind="corpus")
    rows = ((e.image_id, e.text) for examples in _batches(directory, manifest) for e in examples)
    return classification.gather(directory, rows)


def _embed_images(model: models.Model, directory: str, rows: list[int]) -> np.ndarray:
    """Embeds the images of some rows; returns [rows, d]."""
    batches = _batches(directory, manifests.read(directory, kind="corpus"), rows)
    embedded = [model.embed_images(_padded(_pixels(model, examples)))[: len(examples)] for examples in batches]
    return np.concatenate(embedded)


def _embed_texts(model: models.Model, texts: list[str]) -> np.ndarray:
    """Embeds texts; returns [texts, d]."""
    batches = [model.tokenizer(texts[first : first + _BATCH]) for first in range(0, len(texts), _BATCH)]
    return np.concatenate([model.embed_texts(_padded(tokens))[: len(tokens)] for tokens in batches])


def _pixels(model: models.Model, examples: list[records.Example]) -> np.ndarray:
    return np.stack([model.decode(e.image) for e in examples])


def _padded(batch: np.ndarray) -> np.ndarray:
    """Fills a batch up with zeros, so that jit compiles once."""
    return np.pad(batch, [(0, _BATCH - len(batch)), *[(0, 0)] * (batch.ndim - 1)])


def _batches(
    directory: str, manifest: manifests.Manifest, rows: list[int] | None = None
) -> Iterator[list[records.Example]]:
    """Reads some rows, or all, a batch at a time."""
    reader = shards.open_dataset(directory, manifest)
    wanted = range(len(reader)) if rows is None else rows
    for first in range(0, len(wanted), _BATCH):
        yield [records.decode_example(record) for record in reader.read(wanted[first : first + _BATCH])]
