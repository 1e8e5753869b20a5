"""The weighted losses against loops in float64; with equal weights they are the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.losses import contrastive_loss
from trainer.selection import PairEmbeddings

SCALE, BIAS = 5.0, -3.0


@pytest.fixture
def pairs():
    image, text = (np.random.default_rng(seed).normal(size=(6, 4)) for seed in range(2))
    image, text = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (image, text))
    return PairEmbeddings(image, text, np.float64(SCALE), np.float64(BIAS))


def sigmoid_by_loops(pairs, weight):
    total = 0.0
    for i, image in enumerate(pairs.image):
        for j, text in enumerate(pairs.text):
            logit = SCALE * image @ text + BIAS
            total += weight[i] * np.log1p(np.exp(-logit)) if i == j else weight[i] * weight[j] * np.log1p(np.exp(logit))
    return total / len(weight)


def softmax_by_loops(pairs, weight):
    total = 0.0
    for i in range(len(weight)):
        own = SCALE * pairs.image[i] @ pairs.text[i]
        for rows in (pairs.text @ pairs.image[i], pairs.image @ pairs.text[i]):
            others = sum(weight[j] * np.exp(SCALE * rows[j]) for j in range(len(weight)) if j != i)
            total += 0.5 * weight[i] * (np.log(np.exp(own) + others) - own)
    return total / len(weight)


@pytest.mark.parametrize(("loss", "by_loops"), [("sigmoid", sigmoid_by_loops), ("softmax", softmax_by_loops)])
def test_weights_count_examples_and_comparisons(pairs, loss, by_loops):
    weight = np.array([0.25, 0.5, 1.0, 1.0, 1.25, 2.0])
    with jax.enable_x64():
        assert float(contrastive_loss(pairs, loss, jnp.asarray(weight))) == pytest.approx(
            by_loops(pairs, weight), rel=1e-12
        )
        plain = float(contrastive_loss(pairs, loss))
        assert float(contrastive_loss(pairs, loss, jnp.ones(6))) == pytest.approx(plain, rel=1e-12)
        assert plain == pytest.approx(by_loops(pairs, np.ones(6)), rel=1e-12)
        assert abs(float(contrastive_loss(pairs, loss, jnp.asarray(weight))) - plain) > 1e-3
