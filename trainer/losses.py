"""The contrastive losses of a sub-batch, from unit-norm embeddings. Both are means over examples, in nats."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trainer.selection import Loss, PairEmbeddings


def sigmoid_loss(pairs: PairEmbeddings) -> Float[Array, ""]:
    """SigLIP (arXiv 2303.15343, eq. 1): Σ_ij softplus(−z_ij (t x_i·y_j + β)) / b."""
    logits = pairs.scale * pairs.image @ pairs.text.T + pairs.bias
    size = logits.shape[0]
    matched = 2 * jnp.eye(size, dtype=logits.dtype) - 1
    return jax.nn.softplus(-matched * logits).sum() / size


def softmax_loss(pairs: PairEmbeddings) -> Float[Array, ""]:
    """CLIP (arXiv 2103.00020): the mean of both directions' cross entropies; the bias plays no part."""
    logits = pairs.scale * pairs.image @ pairs.text.T
    own = jnp.diagonal(logits)
    both = jax.nn.logsumexp(logits, axis=0) + jax.nn.logsumexp(logits, axis=1)
    return (0.5 * both - own).mean()


def contrastive_loss(pairs: PairEmbeddings, loss: Loss) -> Float[Array, ""]:
    """Returns the loss of this name."""
    return sigmoid_loss(pairs) if loss == "sigmoid" else softmax_loss(pairs)
