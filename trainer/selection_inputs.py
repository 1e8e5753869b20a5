"""What a selection refuses: shapes that do not fit each other, and values that no draw can be made from.

Enters: what `trainer.selection.select` was called with. Leaves: nothing, or an error that names the cure.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from schemas.errors import ConfigError, DataError

if TYPE_CHECKING:
    from trainer.selection import PairEmbeddings


def check_shapes(learner: "PairEmbeddings", reference: "PairEmbeddings", valid: Array | None) -> None:
    """Raises ConfigError unless both models embed the same candidates, as [B, d] with scalar scale and bias."""
    for name, pairs in (("learner", learner), ("reference", reference)):
        image, text = jnp.shape(pairs.image), jnp.shape(pairs.text)
        if len(image) != 2 or image != text:
            raise ConfigError(f"{name} embeddings have shapes {image} (image) and {text} (text); both must be [B, d]")
        if jnp.shape(pairs.scale) or jnp.shape(pairs.bias):
            raise ConfigError(f"{name} scale and bias must be scalars: the loss's t (not log t) and β")
    candidates = jnp.shape(learner.image)[0]
    if jnp.shape(reference.image)[0] != candidates:
        raise ConfigError(
            f"learner embeds {candidates} candidates and reference {jnp.shape(reference.image)[0]}: "
            "both must embed the same super-batch"
        )
    if valid is not None and jnp.shape(valid) != (candidates,):
        raise ConfigError(f"valid has shape {jnp.shape(valid)}; it must be [B] = ({candidates},)")


def check_values(learner: "PairEmbeddings", reference: "PairEmbeddings", valid: Array | None, size: int) -> None:
    """Raises DataError if concrete values leave fewer valid candidates than picks, or are not finite.

    The values are looked at where they are, and all processes come to the same verdict.
    """
    if any(isinstance(array, Tracer) for array in jax.tree.leaves((learner, reference, valid))):
        return
    count, first_bad = jax.device_get(_diagnose(learner, reference, valid))
    candidates = jnp.shape(learner.image)[0]
    if count < size:
        raise DataError(
            f"{size} picks are wanted and {count} of {candidates} candidates are valid: raise the filter ratio, "
            "or repair the embeddings"
        )
    for name, pairs, places in (("learner", learner, first_bad[0]), ("reference", reference, first_bad[1])):
        for field, array, place in zip(pairs._fields, pairs, places, strict=True):
            if place >= 0:
                where = f" (first at candidate {place})" if np.ndim(array) else ""
                raise DataError(
                    f"{name}.{field} is not finite{where}: the {name} diverged, or its embeddings are damaged; "
                    "mark such rows invalid or lower the learning rate"
                )


@jax.jit
def _diagnose(learner: "PairEmbeddings", reference: "PairEmbeddings", valid: Bool[Array, "superbatch"] | None):
    """Returns the number of valid candidates, and of each array the first valid row that is not finite, or −1."""
    mask = jnp.ones(learner.image.shape[0], bool) if valid is None else valid

    def first_bad(array):
        bad = ~jnp.isfinite(array)[None] if array.ndim == 0 else ~jnp.isfinite(array).all(1) & mask
        return jnp.where(bad.any(), bad.argmax(), -1)

    return mask.sum(), jax.tree.map(first_bad, (tuple(learner), tuple(reference)))
