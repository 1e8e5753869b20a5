"""Classification with a frozen model: by the classes' names alone, and by a linear map learned from a few images.

Enters: unit embeddings, and the class of every image. Leaves: accuracies, as fractions.

Zero-shot is CLIP's recipe (arXiv 2103.00020, section 3.1.4): a class is the normalised mean of the normalised
embeddings of its name in every template, and an image belongs to the class it is most similar to.

Linear k-shot is the recipe of big_vision's evaluator `fewshot_lsr`, in float64: least squares with an L2 penalty
λ = 2¹⁰,

    W = argmin ‖XW − Y‖² + λ‖W‖² = (XᵀX + λI)⁻¹XᵀY = Xᵀ(XXᵀ + λI)⁻¹Y

A row of X is an embedding, standardised by the shots' mean and standard deviation, and then a constant 100, whose
weight the penalty hardly holds back. A row of Y is +1 at the image's class and −1 elsewhere.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from schemas.errors import ConfigError, DataError, IntegrityError

# What OpenAI found to be the best ensemble of its 80 ImageNet templates.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
SEEDS = (0, 1, 2)
_PLACE = "{}"
_L2 = 2.0**10
_CONSTANT = 100.0
_LEAST_DEVIATION = 1e-5
_SHOWN = 5


@dataclass(frozen=True)
class LabelledImages:
    """The distinct images of a labelled corpus in row order: the row of each, its `image_id` and its class's name."""

    corpus: str
    rows: list[int]
    image_ids: list[str]
    names: list[str]

    @property
    def classes(self) -> list[str]:
        """The distinct names, sorted."""
        return sorted(set(self.names))

    def labels(self, classes: Sequence[str]) -> Int[np.ndarray, "images"]:
        """Returns the place of every image's class among `classes`."""
        place = {name: i for i, name in enumerate(classes)}
        return np.array([place[name] for name in self.names])


def gather(corpus: str, rows: Iterable[tuple[str, str]]) -> LabelledImages:
    """Finds the images of a labelled corpus from the (image_id, text) of all its rows.

    Raises:
      DataError: an image has several classes, or there are fewer than two classes.
    """
    first: dict[str, tuple[int, str]] = {}
    clashes: dict[str, tuple[str, str]] = {}
    for row, (image_id, name) in enumerate(rows):
        _, known = first.setdefault(image_id, (row, name))
        if name != known:
            clashes.setdefault(image_id, (known, name))
    if clashes:
        image_id, (one, other) = next(iter(clashes.items()))
        raise DataError(
            f"{corpus}: {len(clashes)} of {len(first)} images have more than one class, such as {image_id}: {one!r} "
            f"and {other!r}. A labelled corpus has one text for each image, the name of its class"
        )
    found = LabelledImages(
        corpus, [row for row, _ in first.values()], list(first), [name for _, name in first.values()]
    )
    if len(found.classes) < 2:
        only = f"one class, {found.classes[0]!r}" if found.classes else "no rows"
        raise DataError(f"{corpus} has {only}: classification needs at least two classes")
    return found


def check_shots(images: LabelledImages, shots_from: LabelledImages, shots: int) -> None:
    """Checks that a classifier for `images` can be learned from `shots_from`, and from no image that it is tested on.

    Raises:
      IntegrityError: images are in both corpora.
      DataError: classes are missing, or have too few images.
    """
    if leaked := sorted(set(images.image_ids) & set(shots_from.image_ids)):
        raise IntegrityError(
            f"{len(leaked)} of the {len(images.image_ids)} images of {images.corpus} are in {shots_from.corpus} too, "
            f"such as {leaked[0]}: a classifier must not learn from images that it is tested on. Take them out of one "
            "of the two"
        )
    if missing := sorted(set(images.names) - set(shots_from.names)):
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"{shots_from.corpus} has no image of {', '.join(map(repr, missing[:_SHOWN]))}{more}, and {images.corpus} "
            "has: --shots_from needs images of every class"
        )
    counts = Counter(shots_from.names)
    fewest = min(sorted(counts), key=counts.__getitem__)
    if counts[fewest] < shots:
        raise DataError(
            f"{shots_from.corpus}: class {fewest!r} has {counts[fewest]} distinct images and shots is {shots}: give "
            f"--shots={counts[fewest]} or less"
        )


def check_templates(templates: Sequence[str], where: str) -> None:
    """Raises ConfigError if there is no template, or one has no place for the class's name."""
    if not templates:
        raise ConfigError(f"{where} has no templates: write one a line, such as {TEMPLATES[3]!r}")
    for number, template in enumerate(templates, start=1):
        if _PLACE not in template:
            raise ConfigError(f"{where}: template {number} is {template!r}; it must have {_PLACE} for the class's name")


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Returns every class's name in every template, class by class. A name is never read as a format itself."""
    return [template.replace(_PLACE, name) for name in classes for template in templates]


def class_embeddings(embedded: Float[np.ndarray, "classes templates d"]) -> Float[np.ndarray, "classes d"]:
    """Returns the unit vector of every class from its prompts' embeddings, in float64."""
    return _unit(_unit(embedded.astype(np.float64)).mean(axis=1))


def accuracy(scores: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, "images"]) -> float:
    """The share of images whose own class scores higher than every other. A tie counts against the model."""
    own = labels[:, None] == np.arange(scores.shape[1])
    others = np.where(own, -np.inf, scores).max(axis=1)
    return float((scores[own] > others).mean())


def draw(labels: Int[np.ndarray, "images"], shots: int, seed: int) -> Int[np.ndarray, "points"]:
    """Draws `shots` images of every class without replacement, class by class; every class must have that many."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in range(labels.max() + 1)])


@dataclass(frozen=True)
class LinearClassifier:
    """Scores every class by a linear map of the standardised embedding and a constant."""

    mean: Float[np.ndarray, "d"]
    deviation: Float[np.ndarray, "d"]
    weights: Float[np.ndarray, "features classes"]

    def __call__(self, images: Float[np.ndarray, "images d"]) -> Float[np.ndarray, "images classes"]:
        return _features(images, self.mean, self.deviation) @ self.weights


def fit(points: Float[np.ndarray, "points d"], labels: Int[np.ndarray, "points"], classes: int) -> LinearClassifier:
    """Learns a classifier from labelled points: the least squares of the module's docstring."""
    points = points.astype(np.float64)
    mean, deviation = points.mean(axis=0), points.std(axis=0) + _LEAST_DEVIATION
    x = _features(points, mean, deviation)
    y = 2.0 * (labels[:, None] == np.arange(classes)) - 1.0
    if len(x) < x.shape[1]:
        weights = x.T @ np.linalg.solve(x @ x.T + _L2 * np.eye(len(x)), y)
    else:
        weights = np.linalg.solve(x.T @ x + _L2 * np.eye(x.shape[1]), x.T @ y)
    return LinearClassifier(mean, deviation, weights)


def _features(
    images: Float[np.ndarray, "images d"], mean: Float[np.ndarray, "d"], deviation: Float[np.ndarray, "d"]
) -> Float[np.ndarray, "images features"]:
    return np.pad((images - mean) / deviation, [(0, 0), (0, 1)], constant_values=_CONSTANT)


def _unit(x: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
