"""Zero-shot and linear classification: by hand, against loops, and against NumPy's own least squares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, DataError, IntegrityError
from trainer import classification
from trainer.classification import LabelledImages, accuracy, check_shots, draw, fit, gather


def labelled(corpus: str, **images: int) -> LabelledImages:
    """A labelled corpus with so many images of each class; ids are `<corpus>-<class>-<number>`."""
    ids = [(f"{corpus}-{name}-{i}", name) for name, count in images.items() for i in range(count)]
    return gather(corpus, ids)


def features(images: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Row by row: standardised by the points, and the constant 100."""
    columns = []
    for column in range(points.shape[1]):
        values = [float(v) for v in points[:, column]]
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        columns.append([(float(v) - mean) / (deviation + 1e-5) for v in images[:, column]])
    return np.array([*columns, [100.0] * len(images)]).T


def regularised_least_squares(points: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """‖XW − Y‖² + λ‖W‖² as plain least squares: √λ·I under X, zeros under Y."""
    x = features(points, points)
    y = np.array([[1.0 if c == label else -1.0 for c in range(classes)] for label in labels])
    x_augmented = np.concatenate([x, 32.0 * np.eye(x.shape[1])])  # 32² = 2¹⁰
    y_augmented = np.concatenate([y, np.zeros((x.shape[1], classes))])
    return np.linalg.lstsq(x_augmented, y_augmented, rcond=None)[0]


@settings(max_examples=60, deadline=None)
@given(d=st.integers(1, 12), extra=st.integers(0, 20), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_the_linear_classifier_is_regularised_least_squares(d, extra, classes, seed):
    """Fewer points than features (dual), as many, and more (primal); float32 points, float64 arithmetic."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, extra)])
    points = (rng.normal(size=(len(labels), d)) + labels[:, None]).astype(np.float32)
    images = rng.normal(size=(5, d)).astype(np.float32)
    classifier = fit(points, labels, classes)
    expected = regularised_least_squares(points, labels, classes)
    np.testing.assert_allclose(classifier.weights, expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(classifier(images), features(images, points) @ expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("zeros", [0, 1, 30])
def test_two_points_on_a_line_by_hand(zeros):
    """At ±1: XᵀX = diag(2, 2·100²), XᵀY = (2, 0) for class 0, so the weight is 2 / (2 + 1024). Zeros change nothing."""
    points = np.pad(np.array([[1.0], [-1.0]], np.float32), [(0, 0), (0, zeros)])
    classifier = fit(points, np.array([0, 1]), 2)
    scores = classifier(np.pad([[3.0]], [(0, 0), (0, zeros)]))
    np.testing.assert_allclose(scores, [[3 / 513, -3 / 513]], rtol=3e-5)
    assert classifier.weights.dtype == np.float64


def test_a_linear_classifier_learns_what_is_separable_and_ignores_scale_and_offset():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    clean = np.eye(3)[labels] + rng.normal(scale=0.1, size=(60, 3))
    points = (clean * [1, 1e-2, 1e2] + [0, 7, -300]).astype(np.float32)
    train, test = np.arange(0, 60, 2), np.arange(1, 60, 2)
    classifier = fit(points[train], labels[train], 3)
    assert accuracy(classifier(points[test]), labels[test]) == 1
    assert accuracy(classifier(points[test]), (labels[test] + 1) % 3) == 0


@given(
    scores=st.integers(1, 6).flatmap(
        lambda images: st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=images, max_size=images)
    ),
    data=st.data(),
)
def test_accuracy_is_its_definition(scores, data):
    labels = [data.draw(st.integers(0, 2)) for _ in scores]
    right = 0
    for row, label in zip(scores, labels, strict=True):
        right += all(row[label] > row[other] for other in range(3) if other != label)
    assert accuracy(np.array(scores, float), np.array(labels)) == right / len(scores)


def test_a_tie_and_a_score_that_is_no_number_count_against_the_model():
    scores = np.array([[2.0, 1, 0], [1, 1, 0], [np.nan, 1, 0], [2, np.nan, 0], [0, 1, 3]])
    assert accuracy(scores, np.array([0, 0, 0, 0, 2])) == 2 / 5
    assert accuracy(np.ones((20, 4)), np.arange(20) % 4) == 0


def test_a_class_is_the_mean_direction_of_its_prompts():
    """Lengths do not weigh: (3, 0) and (0, 1) give the diagonal, (4, 3) and (0.8, −0.6) give (1, 0)."""
    embedded = np.array([[[3, 0], [0, 1]], [[4, 3], [0.8, -0.6]]], np.float32)
    found = classification.class_embeddings(embedded)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [1, 0]], atol=1e-7)
    assert found.dtype == np.float64


def test_zero_shot_counts_by_hand():
    names = classification.class_embeddings(np.eye(3, dtype=np.float32)[:, None])
    images = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8], [0.6, 0.6, 0]], np.float32)
    # Right, wrong, right, and a tie between the first two.
    assert accuracy(images @ names.T, np.array([0, 0, 2, 0])) == 2 / 4


def test_prompts_stand_class_by_class_and_names_are_not_formats():
    found = classification.prompts(["cat", "{} {0.__class__}"], ["a {}.", "{} or {}"])
    assert found == ["a cat.", "cat or cat", "a {} {0.__class__}.", "{} {0.__class__} or {} {0.__class__}"]


def test_the_default_templates_are_clips_seven():
    assert len(classification.TEMPLATES) == 7
    classification.check_templates(classification.TEMPLATES, "the default")


@pytest.mark.parametrize(
    ("templates", "words"),
    [([], "t.txt has no templates"), (["a {}", "a photo"], r"t\.txt: template 2 is 'a photo'; it must have \{\}")],
)
def test_templates_without_a_place_for_the_name_are_refused(templates, words):
    with pytest.raises(ConfigError, match=words):
        classification.check_templates(templates, "t.txt")


def test_images_are_gathered_once_in_row_order():
    found = gather("c", [("x", "dog"), ("y", "cat"), ("x", "dog"), ("z", "dog")])
    assert found == LabelledImages("c", [0, 1, 3], ["x", "y", "z"], ["dog", "cat", "dog"])
    assert found.classes == ["cat", "dog"]
    assert found.labels(found.classes).tolist() == [1, 0, 1]
    assert found.labels(["ape", "cat", "dog"]).tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "c has no rows: classification needs at least two classes"),
        ([("x", "dog"), ("y", "dog")], "c has one class, 'dog': classification needs at least two"),
        (
            [("x", "dog"), ("y", "cat"), ("y", "dog"), ("y", "cow")],
            "c: 1 of 2 images have more than one class, such as y: 'cat' and 'dog'",
        ),
    ],
)
def test_corpora_that_are_not_labelled_are_refused(rows, words):
    with pytest.raises(DataError, match=words):
        gather("c", rows)


def test_shots_are_drawn_from_every_class_without_replacement():
    labels = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 1] * 3)
    drawn = draw(labels, 4, seed=0)
    assert labels[drawn].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(drawn.tolist())) == 12
    assert draw(labels, 4, seed=0).tolist() == drawn.tolist()
    draws = {tuple(draw(labels, 4, seed).tolist()) for seed in range(20)}
    assert len(draws) == 20
    assert {i for points in draws for i in points} == set(range(30))  # any image may be drawn
    assert sorted(draw(labels, 9, seed=1)[:9].tolist()) == np.flatnonzero(labels == 0).tolist()


def test_shots_that_can_be_learned_from_are_taken():
    check_shots(labelled("test", cat=1, dog=1), labelled("train", cat=3, dog=4, cow=3), 3)


def test_too_few_shots_name_the_class_with_the_fewest():
    with pytest.raises(
        DataError, match="train: class 'cow' has 2 distinct images and shots is 3: give --shots=2 or less"
    ):
        check_shots(labelled("test", cat=1, dog=1), labelled("train", dog=3, cow=2, cat=4), 3)


def test_missing_classes_are_listed():
    with pytest.raises(DataError, match="train has no image of 'dog', and test has"):
        check_shots(labelled("test", cat=1, dog=1), labelled("train", cat=3, cow=3), 3)
    many = {f"n{i}": 1 for i in range(8)}
    with pytest.raises(DataError, match="train has no image of 'n0', 'n1', 'n2', 'n3', 'n4' and 3 more, and test has"):
        check_shots(labelled("test", **many), labelled("train", cat=3, cow=3), 3)


def test_an_image_in_both_corpora_is_a_leak():
    train = gather("train", [("x", "cat"), ("y", "dog"), ("b", "cow"), ("a", "cow")])
    with pytest.raises(IntegrityError, match="2 of the 3 images of test are in train too, such as a: "):
        check_shots(gather("test", [("b", "cow"), ("a", "dog"), ("c", "cat")]), train, 1)
