"""What a selection refuses: shapes that do not fit each other, and values that no draw can be made from.

Enters: what `trainer.selection.select` was called with. Leaves: nothing, or an error that names the cure.
"""

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from schemas.errors import ConfigError, DataError

if TYPE_CHECKING:
    from trainer.selection import PairEmbeddings, SelectionConfig


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
    if valid is not None and jnp.result_type(valid) != np.bool_:
        raise ConfigError(f"valid has dtype {jnp.result_type(valid)}; it must be a mask of booleans, one a candidate")


def check_placement(learner: "PairEmbeddings", reference: "PairEmbeddings") -> None:
    """Raises ConfigError if embeddings are of a type that says they are sharded, and no mesh was given."""
    for name, pairs in (("learner", learner), ("reference", reference)):
        for field in ("image", "text"):
            spec = getattr(jax.typeof(getattr(pairs, field)).sharding, "spec", ())
            if any(part is not None for part in spec):
                raise ConfigError(
                    f"{name}.{field} is sharded as {spec} over an explicit mesh: pass that mesh to select as well"
                )


def check_values(
    learner: "PairEmbeddings",
    reference: "PairEmbeddings",
    config: "SelectionConfig",
    valid: Bool[Array, "superbatch"],
    size: int,
) -> None:
    """Raises DataError if concrete values leave fewer valid candidates than picks, or give scores that are not finite.

    The values are looked at where they are, and all processes come to the same verdict.
    """
    if any(isinstance(array, Tracer) for array in jax.tree.leaves((learner, reference, valid))):
        return
    found = _diagnose(learner, reference, valid, config)
    if any(isinstance(array, Tracer) for array in jax.tree.leaves(found)):  # concrete values inside somebody's jit
        return
    count, first_bad, bad_score = jax.device_get(found)
    candidates = jnp.shape(learner.image)[0]
    if count < size:
        raise DataError(
            f"{size} picks are wanted and {count} of {candidates} candidates are valid: raise the filter ratio, "
            "or repair the embeddings"
        )
    for name, pairs, places in (("learner", learner, first_bad[0]), ("reference", reference, first_bad[1])):
        for field, array, place in zip(pairs._fields, pairs, places, strict=True):
            if place >= 0:
                if np.ndim(array) == 0:
                    raise DataError(f"{name}.{field} is not finite: the {name} diverged; lower its learning rate")
                raise DataError(
                    f"{name}.{field} is not finite (first at candidate {place}): the {name} diverged, or its "
                    "embeddings are damaged; mark such rows invalid or lower the learning rate"
                )
    if bad_score >= 0:
        raise DataError(
            f"the score of candidate {bad_score} is not finite, though its embeddings are: they must be of unit norm, "
            f"and scale (here {float(learner.scale):g} and {float(reference.scale):g}) the loss's t, not log t"
        )


@functools.partial(jax.jit, static_argnames="config")
def _diagnose(
    learner: "PairEmbeddings",
    reference: "PairEmbeddings",
    valid: Bool[Array, "superbatch"],
    config: "SelectionConfig",
):
    """Returns the number of valid candidates, and the first valid row that is not finite, or −1: of each array, then
    of the scores.
    """
    from trainer.selection import pair_scores  # which imports this module

    def first(bad):
        return jnp.where(bad.any(), bad.argmax(), -1)

    def first_bad(array):
        return first(~jnp.isfinite(array)[None] if array.ndim == 0 else ~jnp.isfinite(array).all(1) & valid)

    own, _, _ = pair_scores(learner, reference, config)
    return valid.sum(), jax.tree.map(first_bad, (tuple(learner), tuple(reference))), first(~jnp.isfinite(own) & valid)
