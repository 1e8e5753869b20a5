"""The contrastive losses of a sub-batch, from unit-norm embeddings. Both are means over examples, in nats.

With weights w (of mean 1 over the dataset) they are, in expectation, what they would be had examples been drawn in
proportion to w: an example counts w_i times, and it is compared w_j times with another.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trainer.selection import Loss, PairEmbeddings


def sigmoid_loss(pairs: PairEmbeddings, weight: Float[Array, "b"] | None = None) -> Float[Array, ""]:
    """SigLIP (arXiv 2303.15343, eq. 1): Σ_ij softplus(−z_ij (t x_i·y_j + β)) / b.

    Weighted, the terms of matched pairs count w_i times and those of all others w_i w_j times.
    """
    logits = pairs.scale * pairs.image @ pairs.text.T + pairs.bias
    size = logits.shape[0]
    own = jnp.eye(size, dtype=logits.dtype)
    terms = jax.nn.softplus(-(2 * own - 1) * logits)
    if weight is not None:
        terms *= weight[:, None] * jnp.where(own == 1, 1, weight)
    return terms.sum() / size


def softmax_loss(pairs: PairEmbeddings, weight: Float[Array, "b"] | None = None) -> Float[Array, ""]:
    """CLIP (arXiv 2103.00020): the mean of both directions' cross entropies; the bias plays no part.

    Weighted, the cross entropies of an example count w_i times, and in the others' sums its exponential does.
    """
    logits = pairs.scale * pairs.image @ pairs.text.T
    own = jnp.diagonal(logits)
    if weight is None:
        both = jax.nn.logsumexp(logits, axis=0) + jax.nn.logsumexp(logits, axis=1)
        return (0.5 * both - own).mean()
    times = jnp.where(jnp.eye(len(own), dtype=bool), 1, weight)  # [i, j]: how often j is compared with
    both = jax.nn.logsumexp(logits, axis=1, b=times) + jax.nn.logsumexp(logits, axis=0, b=times.T)
    return (weight * (0.5 * both - own)).mean()


def contrastive_loss(pairs: PairEmbeddings, loss: Loss, weight: Float[Array, "b"] | None = None) -> Float[Array, ""]:
    """Returns the loss of this name."""
    return sigmoid_loss(pairs, weight) if loss == "sigmoid" else softmax_loss(pairs, weight)
