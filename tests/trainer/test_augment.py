"""Augmented pictures are the originals, mirrored or not and shifted within bounds, found by trying every way."""

import numpy as np

from trainer.augment import augment


def ways(image: np.ndarray) -> dict[bytes, tuple[bool, int, int]]:
    """Every picture that may come of this one: shifts by up to an eighth of 16 × 24 pixels, edges repeated."""
    found = {}
    for mirrored in (False, True):
        padded = np.pad(image[:, ::-1] if mirrored else image, [(2, 2), (3, 3), (0, 0)], mode="edge")
        for down in range(5):
            for across in range(7):
                found[padded[down : down + 16, across : across + 24].tobytes()] = mirrored, down - 2, across - 3
    return found


def test_pictures_are_mirrored_and_shifted_and_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 24, 3), np.uint8)
    augmented = augment(images, np.random.default_rng(1))
    assert augmented.dtype == np.uint8
    seen = [ways(image)[new.tobytes()] for image, new in zip(images, augmented, strict=True)]
    mirrored, down, across = zip(*seen, strict=True)
    assert 70 < sum(mirrored) < 130
    assert set(down) == set(range(-2, 3))
    assert set(across) == set(range(-3, 4))


def test_the_same_stream_gives_the_same_pictures():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    first, again, other = (augment(images, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
