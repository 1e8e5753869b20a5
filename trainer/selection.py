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

With a mesh the candidates stay on their devices. What a chunk sends is each device's best n logits, then the n picked
embeddings; everything else is each device's own B/D candidates.
"""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from schemas.errors import ConfigError
from trainer import placement
from trainer.placement import Shard
from trainer.selection_inputs import check_placement, check_shapes, check_values

Criterion = Literal["learnability", "easy_reference", "hard_learner", "uniform"]
Loss = Literal["sigmoid", "softmax"]

_LARGEST_GAIN = 1e6  # beyond it, float32 logits can overflow

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
        if self.chunks < 1 or self.chunks != int(self.chunks):
            raise ConfigError(f"chunks is {self.chunks}; a sub-batch is drawn in a whole number of chunks, at least 1")
        if self.criterion not in get_args(Criterion):
            raise ConfigError(f"criterion is {self.criterion!r}; it must be one of {', '.join(get_args(Criterion))}")
        if self.loss not in get_args(Loss):
            raise ConfigError(f"loss is {self.loss!r}; it must be one of {', '.join(get_args(Loss))}")
        if not 0 <= self.gain <= _LARGEST_GAIN:
            raise ConfigError(
                f"gain is {self.gain}; the logits' inverse temperature must lie in [0, {_LARGEST_GAIN:g}]: 0 ignores "
                "the scores, and at large values the highest always win"
            )

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
                f"filter_ratio {self.filter_ratio}): a chunk would be empty. Use at most {size} "
                f"chunk{'s' if size > 1 else ''}"
            )
        return size


def select(
    key: PRNGKeyArray | Array,
    learner: PairEmbeddings,
    reference: PairEmbeddings,
    config: SelectionConfig,
    *,
    valid: Bool[Array, "superbatch"] | None = None,
    mesh: Mesh | None = None,
) -> Picks:
    """Draws a sub-batch. Can be called under `jit`; concrete inputs are validated, traced ones cannot be.

    Where they cannot be, the caller has to see to it that scores are finite and that there are at least as many valid
    candidates as picks: else candidates are picked twice.

    The picks do not depend on the number of devices: the noise is keyed by the candidate's index in the super-batch.
    Rounding may: products of other shapes round otherwise, by about 1e-7 of a logit in float32.

    Args:
      key: the noise of chunk c is `gumbel(fold_in(key, c), (B,), f32)`.
      learner: the candidates embedded by θ.
      reference: the same candidates embedded by θ*; its width may differ.
      valid: candidates that may be picked; None means all.
      mesh: None, or the mesh over whose axis `data` the candidates are sharded (a mesh of one axis may call it
        anything). They are not moved if they lie so already. The picks come back replicated. Under several processes
        every process calls this with the same global arrays.

    Raises:
      ConfigError: shapes that do not fit each other or the config; a mesh without a data axis, or none for embeddings
        that are sharded over an explicit one.
      DataError: embeddings or scores that are not finite, or fewer valid candidates than picks.
    """
    check_shapes(learner, reference, valid)
    candidates = jnp.shape(learner.image)[0]
    size = config.subbatch_size(candidates)
    mask = jnp.ones(candidates, bool) if valid is None else jnp.asarray(valid)
    shard = Shard(candidates, axis=None if mesh is None else placement.data_axis(mesh))
    if mesh is None:
        check_placement(learner, reference)
    else:
        key, learner, reference, mask = placement.bring((key, learner, reference, mask), mesh, shard)
    check_values(learner, reference, config, mask, size)
    return _select(key, learner, reference, mask, config=config, mesh=mesh, shard=shard)


def pair_scores(
    learner: PairEmbeddings, reference: PairEmbeddings, config: SelectionConfig
) -> tuple[Float[Array, "superbatch"], Float[Array, "superbatch"], Float[Array, "superbatch"]]:
    """Returns (S_jj, learner nll, reference nll): every candidate's own terms."""
    nll_learner, nll_reference = _own_nll(_widen(learner), config.loss), _own_nll(_widen(reference), config.loss)
    weight_learner, weight_reference = _WEIGHTS[config.criterion]
    return weight_learner * nll_learner + weight_reference * nll_reference, nll_learner, nll_reference


@functools.partial(jax.jit, static_argnames=("config", "mesh", "shard"))
def _select(key, learner, reference, valid, *, config, mesh, shard):
    draw = functools.partial(_draw_subbatch, config=config, shard=shard)
    inputs = key, _widen(learner), _widen(reference), valid
    if mesh is None:
        return draw(*inputs)
    everywhere, split = PartitionSpec(), PartitionSpec(shard.axis)
    pairs = PairEmbeddings._make((split, split, everywhere, everywhere))
    layout = everywhere, pairs, pairs, split
    sharded = jax.shard_map(draw, mesh=mesh, in_specs=layout, out_specs=everywhere)
    return sharded(*placement.place(inputs, layout, mesh, shard))


def _draw_subbatch(
    key: PRNGKeyArray | Array,
    learner: PairEmbeddings,
    reference: PairEmbeddings,
    valid: Bool[Array, "shard"],
    *,
    config: SelectionConfig,
    shard: Shard,
) -> Picks:
    """The algorithm, as one device runs it over its own candidates: all of them, or a shard."""
    own, nll_learner, nll_reference = pair_scores(learner, reference, config)
    size = config.subbatch_size(shard.candidates)
    chunks = config.chunks if config.joint else 1
    models = [(w, m) for w, m in zip(_WEIGHTS[config.criterion], (learner, reference), strict=True) if w]

    def draw(sums, open_, chunk, count):
        logits = own + _interaction(sums, models, config.loss)
        noise = jax.random.gumbel(jax.random.fold_in(key, chunk), (shard.candidates,), jnp.float32)
        index = shard.top(jnp.where(open_, config.gain * logits + shard.own(noise), -jnp.inf), count)
        return index, shard.take(logits, index)

    def draw_and_add(carry, chunk, count):
        sums, open_ = carry
        index, conditional = draw(sums, open_, chunk, count)
        picked = [m._replace(image=shard.take(m.image, index), text=shard.take(m.text, index)) for _, m in models]
        return (_add_chunk(sums, models, picked, config.loss), shard.close(open_, index)), (index, conditional)

    # Chunk c has b//K + (c < b mod K) picks: a scan over the longer chunks, if any, then one over the others. The last
    # chunk is only drawn: what it adds, nobody reads.
    shorter, longer_chunks = divmod(size, chunks)
    carry = (_no_sums(models, own, config.loss), valid)
    drawn = []
    for count, first, last in ((shorter + 1, 0, longer_chunks), (shorter, longer_chunks, chunks - 1)):
        if first < last:
            body = functools.partial(draw_and_add, count=count)
            carry, picked = lax.scan(body, carry, jnp.arange(first, last, dtype=jnp.int32))
            drawn.append([array.ravel() for array in picked])
    drawn.append(draw(*carry, chunks - 1, shorter))
    index, conditional = (jnp.concatenate(parts) for parts in zip(*drawn, strict=True))
    sizes = np.full(chunks, shorter) + (np.arange(chunks) < longer_chunks)
    return Picks(
        index=index,
        chunk=jnp.asarray(np.repeat(np.arange(chunks, dtype=np.int32), sizes)),
        conditional=conditional,
        learner_nll=shard.take(nll_learner, index),
        reference_nll=shard.take(nll_reference, index),
    )


# --- What the picks so far add to every candidate's logit ------------------------------------------------------
# Sigmoid: one running sum over both models. Softmax: per model two running log-sum-exps, over the picked texts as
# seen from a candidate's image, and over the picked images as seen from its text.
#
# Each product is [candidates, n], candidates first and reduced along its rows, from operations that XLA's CPU backend
# fuses with the product: it never reaches memory. docs/performance.md has the measurement.


def _no_sums(models, own, loss):
    if loss == "sigmoid":
        return jnp.zeros_like(own)
    return [jnp.full_like(own, -jnp.inf, shape=(2, len(own))) for _ in models]


def _add_chunk(sums, models, picked, loss):
    if loss == "sigmoid":
        for (weight, m), p in zip(models, picked, strict=True):
            rows = softplus(m.scale * _dot(m.text, p.image) + m.bias)  # S_ij, i picked
            columns = softplus(m.scale * _dot(m.image, p.text) + m.bias)  # S_ji
            sums = sums + weight * (rows.sum(1) + columns.sum(1))
        return sums
    return [
        jnp.logaddexp(
            previous,
            jnp.stack(
                [
                    jax.nn.logsumexp(m.scale * _dot(m.image, p.text), axis=1),
                    jax.nn.logsumexp(m.scale * _dot(m.text, p.image), axis=1),
                ]
            ),
        )
        for previous, (_, m), p in zip(sums, models, picked, strict=True)
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
    return softplus(-(pairs.scale * alignment + pairs.bias))


def _dot(candidates: Float[Array, "superbatch d"], picked: Float[Array, "n d"]) -> Float[Array, "superbatch n"]:
    return jnp.matmul(candidates, picked.T, precision=lax.Precision.HIGHEST)


def softplus(z: Array) -> Array:
    """log(1 + eᶻ) from operations that fuse with a product; beyond 80, where eᶻ might overflow, it is z."""
    return jnp.maximum(z, jnp.log1p(jnp.exp(jnp.minimum(z, 80.0))))


def _widen(pairs: PairEmbeddings) -> PairEmbeddings:
    """float32 arithmetic whatever the input's dtype; float64 stays (under x64)."""
    return PairEmbeddings(*(jnp.asarray(a, jnp.promote_types(jnp.result_type(a), jnp.float32)) for a in pairs))
