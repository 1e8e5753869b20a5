"""Joint example selection (JEST, arXiv 2406.17711, §2 and Algorithm 1), exact and linear in memory.

Enters: the super-batch's B pairs embedded by the learner and by the reference, and a PRNG key. Leaves: the b picks,
in drawing order. Pure functions; no I/O.

The sigmoid loss of candidate image i with candidate text j is ℓ_ij = softplus(−z_ij (t x_i·y_j + β)), z_ii = +1,
z_ij = −1 (SigLIP, arXiv 2303.15343, eq. 1). With scores S = ℓ(θ) − ℓ(θ*) a sub-batch is drawn in chunks:

    first chunk    logits_j = S_jj
    later chunks   logits_j = S_jj + Σ_{i picked} (S_ij + S_ji)

and each chunk is a Gumbel-top-k draw: sampling without replacement, exact, keyed. The paper prints this over B × B
matrices. A chunk only ever adds its own n rows and columns to the sums, so here they are computed from the
embeddings when the chunk has been drawn and reduced at once: time O(b·B·d), memory O(B·(d + n)).
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from schemas.errors import ConfigError, DataError

Criterion = Literal["learnability", "easy_reference", "hard_learner", "uniform"]
Loss = Literal["sigmoid", "softmax"]

# S = learner weight · ℓ(θ) + reference weight · ℓ(θ*)
_WEIGHTS: dict[Criterion, tuple[int, int]] = {
    "learnability": (1, -1),
    "easy_reference": (0, -1),
    "hard_learner": (1, 0),
    "uniform": (0, 0),
}


class PairEmbeddings(NamedTuple):
    """Unit-norm embeddings of B pairs, and the loss scale t (not log t) and bias β that belong to them."""

    image: Float[Array, "superbatch d"]
    text: Float[Array, "superbatch d"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]


class Picks(NamedTuple):
    """The sub-batch in drawing order: chunk by chunk, descending, ties to the lower index."""

    index: Int[Array, "subbatch"]  # pyright: ignore[reportIncompatibleMethodOverride]
    chunk: Int[Array, "subbatch"]
    conditional: Float[Array, "subbatch"]  # the logit when drawn, without gain and noise
    learner_nll: Float[Array, "subbatch"]  # the pair's own diagonal term
    reference_nll: Float[Array, "subbatch"]


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """How a sub-batch is drawn; hashable, so that it can be a static argument."""

    filter_ratio: float = 0.8
    chunks: int = 16
    criterion: Criterion = "learnability"
    loss: Loss = "sigmoid"
    joint: bool = True
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.filter_ratio < 1:
            raise ConfigError(
                f"filter_ratio is {self.filter_ratio}; it must lie in [0, 1): the share of the super-batch passed over"
            )
        if self.chunks < 1:
            raise ConfigError(f"chunks is {self.chunks}; a sub-batch is drawn in at least 1 chunk")
        if self.criterion not in get_args(Criterion):
            raise ConfigError(f"criterion is {self.criterion!r}; it must be one of {', '.join(get_args(Criterion))}")
        if self.loss not in get_args(Loss):
            raise ConfigError(f"loss is {self.loss!r}; it must be one of {', '.join(get_args(Loss))}")
        if not (math.isfinite(self.gain) and self.gain >= 0):
            raise ConfigError(f"gain is {self.gain}; the logits' inverse temperature must be finite and not negative")

    def subbatch_size(self, superbatch_size: int) -> int:
        """Returns b = round(B(1 − f)).

        Raises:
          ConfigError: b would be 0, or less than the number of chunks.
        """
        size = round(superbatch_size * (1 - self.filter_ratio))
        if size < 1:
            raise ConfigError(
                f"filter_ratio {self.filter_ratio} of a super-batch of {superbatch_size} leaves no picks: "
                "lower the filter ratio or enlarge the super-batch"
            )
        if self.joint and self.chunks > size:
            raise ConfigError(
                f"chunks is {self.chunks} and the sub-batch has {size} examples ({superbatch_size} candidates, "
                f"filter_ratio {self.filter_ratio}): a chunk would be empty. Use at most {size} chunks"
            )
        return size


def select(
    key: PRNGKeyArray | Array,
    learner: PairEmbeddings,
    reference: PairEmbeddings,
    config: SelectionConfig,
    *,
    valid: Bool[Array, "superbatch"] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Picks:
    """Draws a sub-batch. Can be called under `jit`; concrete inputs are validated, traced ones cannot be.

    Args:
      key: the noise of chunk c is `gumbel(fold_in(key, c), (B,), f32)`.
      learner: the candidates embedded by θ.
      reference: the same candidates embedded by θ*; its width may differ.
      valid: candidates that may be picked; None means all.
      mesh: only None so far: one device holds the super-batch.

    Raises:
      ConfigError: shapes that do not fit each other or the config.
      DataError: embeddings that are not finite, or fewer valid candidates than picks.
    """
    if mesh is not None:
        raise ConfigError("select(mesh=…) is not supported yet: pass mesh=None, with the super-batch on one device")
    size = _check_shapes(learner, reference, config, valid)
    _check_values(learner, reference, valid, size)
    if valid is None:
        valid = jnp.ones(learner.image.shape[0], bool)
    return _select(key, learner, reference, valid, config=config)


def pair_scores(
    learner: PairEmbeddings, reference: PairEmbeddings, config: SelectionConfig
) -> tuple[Float[Array, "superbatch"], Float[Array, "superbatch"], Float[Array, "superbatch"]]:
    """Returns (S_jj, learner nll, reference nll): every candidate's own terms."""
    nll_learner, nll_reference = _own_nll(_widen(learner), config.loss), _own_nll(_widen(reference), config.loss)
    weight_learner, weight_reference = _WEIGHTS[config.criterion]
    return weight_learner * nll_learner + weight_reference * nll_reference, nll_learner, nll_reference


@functools.partial(jax.jit, static_argnames="config")
def _select(
    key: PRNGKeyArray | Array,
    learner: PairEmbeddings,
    reference: PairEmbeddings,
    valid: Bool[Array, "superbatch"],
    *,
    config: SelectionConfig,
) -> Picks:
    learner, reference = _widen(learner), _widen(reference)
    own, nll_learner, nll_reference = pair_scores(learner, reference, config)
    candidates = own.shape[0]
    size = config.subbatch_size(candidates)
    chunks = config.chunks if config.joint else 1
    models = [(w, m) for w, m in zip(_WEIGHTS[config.criterion], (learner, reference), strict=True) if w]

    def draw(sums, open_, chunk, count):
        """Draws `count` of the open candidates by Gumbel-top-k."""
        logits = own + _interaction(sums, models, config.loss)
        noise = jax.random.gumbel(jax.random.fold_in(key, chunk), (candidates,), jnp.float32)
        _, index = lax.top_k(jnp.where(open_, config.gain * logits + noise, -jnp.inf), count)
        return index, logits[index], open_.at[index].set(False)

    def one_chunk(carry, chunk, count):
        sums, open_ = carry
        index, conditional, open_ = draw(sums, open_, chunk, count)
        # What the last chunk adds, nobody reads.
        sums = lax.cond(chunk + 1 < chunks, lambda s: _add_chunk(s, models, index, config.loss), lambda s: s, sums)
        return (sums, open_), (index, conditional)

    # Chunk c has b//K + (c < b mod K) picks: a scan over the longer chunks, if any, then one over the others.
    shorter, longer_chunks = divmod(size, chunks)
    carry = (_no_sums(models, candidates, own.dtype, config.loss), valid)
    drawn = []
    for count, first, last in ((shorter + 1, 0, longer_chunks), (shorter, longer_chunks, chunks)):
        if first < last:
            body = functools.partial(one_chunk, count=count)
            carry, picked = lax.scan(body, carry, jnp.arange(first, last, dtype=jnp.int32))
            drawn.append([array.ravel() for array in picked])
    index, conditional = (jnp.concatenate(parts) for parts in zip(*drawn, strict=True))
    sizes = np.full(chunks, shorter) + (np.arange(chunks) < longer_chunks)
    return Picks(
        index=index.astype(jnp.int32),
        chunk=jnp.asarray(np.repeat(np.arange(chunks, dtype=np.int32), sizes)),
        conditional=conditional,
        learner_nll=nll_learner[index],
        reference_nll=nll_reference[index],
    )


# --- What the picks so far add to every candidate's logit ------------------------------------------------------
# Sigmoid: one running sum over both models. Softmax: per model two running log-sum-exps, over the picked texts as
# seen from a candidate's image, and over the picked images as seen from its text.


def _no_sums(models, candidates, dtype, loss):
    if loss == "sigmoid":
        return jnp.zeros(candidates, dtype)
    return [jnp.full((2, candidates), -jnp.inf, dtype) for _ in models]


def _add_chunk(sums, models, index, loss):
    if loss == "sigmoid":
        for weight, m in models:
            rows = jax.nn.softplus(m.scale * _dot(m.image[index], m.text) + m.bias)  # S_ij, i picked: [n, B]
            columns = jax.nn.softplus(m.scale * _dot(m.text[index], m.image) + m.bias)  # S_ji
            sums = sums + weight * (rows.sum(0) + columns.sum(0))
        return sums
    return [
        jnp.logaddexp(
            previous,
            jnp.stack(
                [
                    jax.nn.logsumexp(m.scale * _dot(m.text[index], m.image), axis=0),
                    jax.nn.logsumexp(m.scale * _dot(m.image[index], m.text), axis=0),
                ]
            ),
        )
        for previous, (_, m) in zip(sums, models, strict=True)
    ]


def _interaction(sums, models, loss):
    if loss == "sigmoid":
        return sums
    # Before the first pick both log-sum-exps are −inf, and the logit is the pair's own term alone.
    return sum((w * jnp.where(jnp.isfinite(s), s, 0).mean(0) for s, (w, _) in zip(sums, models, strict=True)), 0.0)


def _own_nll(pairs: PairEmbeddings, loss: Loss) -> Float[Array, "superbatch"]:
    alignment = jnp.einsum("jd,jd->j", pairs.image, pairs.text, precision=lax.Precision.HIGHEST)
    if loss == "softmax":
        return -pairs.scale * alignment
    return jax.nn.softplus(-(pairs.scale * alignment + pairs.bias))


def _dot(picked: Float[Array, "n d"], candidates: Float[Array, "superbatch d"]) -> Float[Array, "n superbatch"]:
    return jnp.matmul(picked, candidates.T, precision=lax.Precision.HIGHEST)


def _widen(pairs: PairEmbeddings) -> PairEmbeddings:
    """float32 arithmetic whatever the input's dtype; float64 stays (under x64)."""
    return PairEmbeddings(*(jnp.asarray(a, jnp.promote_types(jnp.result_type(a), jnp.float32)) for a in pairs))


def _check_shapes(learner, reference, config, valid) -> int:
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
    return config.subbatch_size(candidates)


def _check_values(learner, reference, valid, size: int) -> None:
    arrays = [*learner, *reference, *([] if valid is None else [valid])]
    if any(isinstance(a, Tracer) for a in arrays):
        return
    mask = np.ones(np.shape(learner.image)[0], bool) if valid is None else np.asarray(valid)
    if mask.sum() < size:
        raise DataError(
            f"{size} picks are wanted and {mask.sum()} of {mask.size} candidates are valid: raise the filter ratio, "
            "or repair the embeddings"
        )
    for name, pairs in (("learner", learner), ("reference", reference)):
        for field, array in zip(pairs._fields, pairs, strict=True):
            values = np.asarray(array, np.float64)
            bad = ~np.isfinite(values) if values.ndim == 0 else ~np.isfinite(values).all(-1) & mask
            if bad.any():
                where = f" (first at candidate {int(np.argmax(bad))})" if values.ndim else ""
                raise DataError(
                    f"{name}.{field} is not finite{where}: the {name} diverged, or its embeddings are damaged; "
                    "mark such rows invalid or lower the learning rate"
                )
