"""Joint selection against the published form, its invariants, its distribution and its errors."""

import dataclasses
import itertools
from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, DataError
from tests.trainer import published
from trainer import selection
from trainer.selection import Criterion, Loss, PairEmbeddings, SelectionConfig, select
from trainer.selection_inputs import check_shapes

# In float32 the picks may differ from float64's only where two perturbed logits are closer than this.
FLOAT32_TOLERANCE = 1e-4


def pairs(seed: int, candidates: int, width: int) -> PairEmbeddings:
    """Random pairs, in float64 under x64 and in float32 otherwise."""
    rng = np.random.default_rng(seed)
    dtype = np.float64 if jax.config.read("jax_enable_x64") else np.float32
    image, text = (jnp.asarray(published.unit(rng, candidates, width, dtype)) for _ in range(2))
    return PairEmbeddings(image, text, jnp.asarray(rng.uniform(5, 15), dtype), jnp.asarray(rng.uniform(-12, -4), dtype))


def assert_equal_to_published(key, learner, reference, config, valid=None):
    picks = select(key, learner, reference, config, valid=valid)
    index, chunk, conditional, _ = published.select(key, learner, reference, config, valid)
    np.testing.assert_array_equal(picks.index, index)
    np.testing.assert_array_equal(picks.chunk, chunk)
    np.testing.assert_allclose(picks.conditional, conditional, rtol=1e-9, atol=1e-9)
    own = [-np.asarray(p.scale) * (p.image * p.text).sum(1) for p in (learner, reference)]
    if config.loss == "sigmoid":
        own = [np.diag(published.sigmoid_matrix(p)) for p in (learner, reference)]
    np.testing.assert_allclose(picks.learner_nll, np.asarray(own[0])[index], rtol=1e-9)
    np.testing.assert_allclose(picks.reference_nll, np.asarray(own[1])[index], rtol=1e-9)


@pytest.mark.parametrize(
    ("criterion", "loss", "joint"), itertools.product(get_args(Criterion), get_args(Loss), (True, False))
)
def test_every_form_picks_exactly_what_the_published_form_picks(criterion, loss, joint):
    with jax.enable_x64(True):
        config = SelectionConfig(filter_ratio=0.7, chunks=7, criterion=criterion, loss=loss, joint=joint, gain=1.5)
        valid = np.ones(50, bool)
        valid[[0, 13, 49]] = False
        for seed in range(3):
            key = jax.random.key(seed)
            learner, reference = pairs(seed, 50, 8), pairs(seed + 100, 50, 12)
            assert_equal_to_published(key, learner, reference, config, jnp.asarray(valid))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_shape_picks_what_the_published_form_picks(data):
    candidates = data.draw(st.integers(1, 40), "candidates")
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=candidates, max_size=candidates), "valid"))
    size = data.draw(st.integers(0, valid.sum()), "sub-batch")
    if size == 0:
        return
    config = SelectionConfig(
        filter_ratio=1 - size / candidates,
        chunks=data.draw(st.integers(1, size), "chunks"),
        criterion=data.draw(st.sampled_from(get_args(Criterion)), "criterion"),
        loss=data.draw(st.sampled_from(get_args(Loss)), "loss"),
        joint=data.draw(st.booleans(), "joint"),
        gain=data.draw(st.sampled_from([0.0, 0.5, 1.0, 30.0]), "gain"),
    )
    seed = data.draw(st.integers(0, 2**31), "seed")
    widths = data.draw(st.tuples(st.integers(2, 9), st.integers(2, 9)), "widths")
    with jax.enable_x64(True):
        learner, reference = (pairs(seed + i, candidates, width) for i, width in enumerate(widths))
        assert_equal_to_published(jax.random.key(seed), learner, reference, config, jnp.asarray(valid))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_lower_precision_differs_only_at_near_ties(dtype):
    compared = 0
    for seed in range(20):
        key = jax.random.key(seed)
        learner, reference = (PairEmbeddings(*(a.astype(dtype) for a in pairs(s, 64, 16))) for s in (seed, seed + 50))
        config = SelectionConfig(filter_ratio=0.75, chunks=4)
        widened = [PairEmbeddings(*(np.asarray(a, np.float64) for a in p)) for p in (learner, reference)]
        index, _, _, gap = published.select(key, *widened, config)
        picks = select(key, learner, reference, config)
        assert picks.conditional.dtype == jnp.float32
        if gap > FLOAT32_TOLERANCE:
            compared += 1
            np.testing.assert_array_equal(picks.index, index)
    assert compared > 5


def test_filter_ratio_zero_picks_everything_once():
    config = SelectionConfig(filter_ratio=0, chunks=5)
    picks = select(jax.random.key(0), pairs(0, 33, 8), pairs(1, 33, 8), config)
    assert sorted(picks.index.tolist()) == list(range(33))
    assert np.bincount(picks.chunk).tolist() == [7, 7, 7, 6, 6]


def test_invalid_candidates_are_never_picked_even_with_the_best_scores():
    learner, reference = pairs(0, 40, 8), pairs(1, 40, 8)
    config = SelectionConfig(filter_ratio=0.5, chunks=4, gain=10.0)
    valid = np.ones(40, bool)
    best = np.asarray(select(jax.random.key(0), learner, reference, config).index)[:20]
    valid[best] = False
    picks = select(jax.random.key(0), learner, reference, config, valid=jnp.asarray(valid))
    assert not set(picks.index.tolist()) & set(best.tolist())


def test_rows_that_are_not_valid_may_hold_anything():
    learner, reference = pairs(0, 40, 8), pairs(1, 40, 8)
    valid = np.arange(40) % 4 != 0
    damaged = learner._replace(image=jnp.where(valid[:, None], learner.image, jnp.nan))
    config = SelectionConfig(filter_ratio=0.5, chunks=4)
    picks, expected = (
        select(jax.random.key(0), p, reference, config, valid=jnp.asarray(valid)) for p in (damaged, learner)
    )
    np.testing.assert_array_equal(picks.index, expected.index)
    assert np.isfinite(picks.conditional).all()


@pytest.mark.parametrize("loss", get_args(Loss))
def test_the_loss_does_not_overflow_at_large_scales(loss):
    learner, reference = (p._replace(scale=jnp.float32(1000)) for p in (pairs(0, 64, 4), pairs(1, 64, 4)))
    config = SelectionConfig(filter_ratio=0.5, chunks=4, loss=loss)
    widened = [PairEmbeddings(*(np.asarray(a, np.float64) for a in p)) for p in (learner, reference)]
    index, _, conditional, _ = published.select(jax.random.key(0), *widened, config)
    picks = select(jax.random.key(0), learner, reference, config)
    np.testing.assert_array_equal(picks.index, index)
    np.testing.assert_allclose(picks.conditional, conditional, rtol=1e-4, atol=0.01)


def test_picks_are_the_same_under_jit_and_compile_once_for_a_shape():
    config = SelectionConfig(filter_ratio=0.5, chunks=3)
    traced = []

    @jax.jit
    def program(key, learner, reference):
        traced.append(1)
        return select(key, learner, reference, config)

    for seed in range(3):
        learner, reference = pairs(seed, 32, 8), pairs(seed + 9, 32, 8)
        key = jax.random.key(seed)
        np.testing.assert_array_equal(
            program(key, learner, reference).index, select(key, learner, reference, config).index
        )
    assert len(traced) == 1


def test_calls_outside_jit_compile_once_for_a_shape():
    config = SelectionConfig(filter_ratio=0.5, chunks=3)
    before = selection._select._cache_size()
    for seed in range(3):
        select(jax.random.key(seed), pairs(seed, 37, 8), pairs(seed + 9, 37, 8), config)
    assert selection._select._cache_size() == before + 1


def test_embeddings_that_a_jitted_caller_closes_over_are_no_obstacle():
    learner, reference, config = pairs(0, 32, 8), pairs(1, 32, 8), SelectionConfig(filter_ratio=0.5, chunks=3)
    keys = jax.random.split(jax.random.key(0), 3)
    _, scanned = jax.lax.scan(lambda _, key: (None, select(key, learner, reference, config).index), None, keys)
    np.testing.assert_array_equal(scanned[1], select(keys[1], learner, reference, config).index)


@pytest.mark.parametrize("loss", get_args(Loss))
def test_memory_holds_a_chunks_products_and_no_more(loss):
    candidates, width = 4096, 16
    config = SelectionConfig(filter_ratio=0.8, chunks=16, loss=loss)
    shaped = PairEmbeddings(
        *(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((candidates, width), (candidates, width), (), ()))
    )
    program = jax.jit(lambda key, a, b: select(key, a, b, config))
    memory = program.lower(jax.random.key(0), shaped, shaped).compile().memory_analysis()
    # A chunk's products with all candidates are 4; far below even one array of all candidates by all picks.
    products = 4 * 4 * (config.subbatch_size(candidates) // 16 + 1) * candidates
    assert memory.temp_size_in_bytes < products + 4 * 16 * candidates
    if loss == "sigmoid":  # each product is fused with its reduction, and is never in memory
        assert memory.temp_size_in_bytes < products / 4
    assert memory.temp_size_in_bytes < 4 * candidates * config.subbatch_size(candidates)


def test_first_chunk_follows_plackett_luce():
    """Over many keys, how often each candidate is drawn first and second matches the exact probabilities."""
    candidates, draws = 6, 6000
    learner, reference = pairs(3, candidates, 4), pairs(4, candidates, 4)
    config = SelectionConfig(filter_ratio=1 - 2 / 6, chunks=1, gain=0.5)
    score = 0.5 * (np.diag(published.sigmoid_matrix(learner)) - np.diag(published.sigmoid_matrix(reference)))
    weight = np.exp(score - score.max())
    first = weight / weight.sum()
    expected = np.zeros((candidates, candidates))
    for i, j in itertools.permutations(range(candidates), 2):
        expected[i, j] = first[i] * weight[j] / (weight.sum() - weight[i])
    keys = jax.random.split(jax.random.key(7), draws)
    index = np.asarray(jax.vmap(lambda key: select(key, learner, reference, config).index)(keys))
    observed = np.zeros_like(expected)
    np.add.at(observed, (index[:, 0], index[:, 1]), 1)
    off = ~np.eye(candidates, dtype=bool)
    statistic = ((observed - draws * expected)[off] ** 2 / (draws * expected[off])).sum()
    # 29 degrees of freedom: the 99.9 % point of chi-square is 58.3.
    assert statistic < 58.3
    assert observed[~off].sum() == 0


def test_joint_conditions_on_what_was_picked():
    learner, reference = pairs(0, 64, 8), pairs(1, 64, 8)
    joint = select(jax.random.key(0), learner, reference, SelectionConfig(filter_ratio=0.5, chunks=8))
    alone = select(jax.random.key(0), learner, reference, SelectionConfig(filter_ratio=0.5, chunks=8, joint=False))
    assert set(joint.index.tolist()) != set(alone.index.tolist())
    assert set(np.asarray(alone.chunk).tolist()) == {0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"filter_ratio": 1.0}, ["filter_ratio", "1.0", "[0, 1)"]),
        ({"filter_ratio": -0.1}, ["filter_ratio", "-0.1"]),
        ({"chunks": 0}, ["chunks", "0", "at least 1"]),
        ({"criterion": "hardest"}, ["criterion", "'hardest'", "learnability"]),
        ({"loss": "triplet"}, ["loss", "'triplet'", "sigmoid"]),
        ({"chunks": 2.5}, ["chunks", "2.5", "whole number"]),
        ({"gain": float("nan")}, ["gain", "nan"]),
        ({"gain": float("inf")}, ["gain", "inf", "[0, 1e+06]"]),
        ({"gain": -1.0}, ["gain", "-1.0"]),
    ],
)
def test_bad_settings_are_refused_when_constructed(fields, words):
    # A stand-in for self: the tests' type checker would refuse a wrong literal before the config's own check.
    wrong = SimpleNamespace(**dataclasses.asdict(SelectionConfig()) | fields)
    with pytest.raises(ConfigError) as error:
        SelectionConfig.__post_init__(wrong)
    assert all(word in str(error.value) for word in words)


def test_more_chunks_than_picks_names_both():
    with pytest.raises(ConfigError, match=r"chunks is 5 .* 4 examples .*at most 4 chunks"):
        select(jax.random.key(0), pairs(0, 8, 4), pairs(1, 8, 4), SelectionConfig(filter_ratio=0.5, chunks=5))


def test_an_empty_subbatch_is_refused():
    with pytest.raises(ConfigError, match="leaves no picks"):
        select(jax.random.key(0), pairs(0, 4, 4), pairs(1, 4, 4), SelectionConfig(filter_ratio=0.9, chunks=1))


def test_embeddings_of_different_superbatches_are_refused():
    with pytest.raises(ConfigError, match="learner embeds 8 candidates and reference 9"):
        select(jax.random.key(0), pairs(0, 8, 4), pairs(1, 9, 4), SelectionConfig(filter_ratio=0.5, chunks=1))


def test_too_few_valid_candidates_are_refused():
    valid = jnp.asarray([True, True, False, False])
    config = SelectionConfig(filter_ratio=0.25, chunks=1)
    with pytest.raises(DataError, match="3 picks are wanted and 2 of 4"):
        select(jax.random.key(0), pairs(0, 4, 4), pairs(1, 4, 4), config, valid=valid)


def test_an_invalid_row_with_filter_ratio_zero_is_refused():
    valid = jnp.asarray([True, True, True, False])
    config = SelectionConfig(filter_ratio=0, chunks=1)
    with pytest.raises(DataError, match="4 picks are wanted and 3 of 4"):
        select(jax.random.key(0), pairs(0, 4, 4), pairs(1, 4, 4), config, valid=valid)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["image", "text", "scale", "bias"])
def test_embeddings_that_are_not_finite_are_refused(field, value):
    learner = pairs(0, 8, 4)
    broken = learner._replace(**{field: getattr(learner, field) * value})
    with pytest.raises(DataError, match=rf"learner\.{field} is not finite"):
        select(jax.random.key(0), broken, pairs(1, 8, 4), SelectionConfig(filter_ratio=0.5, chunks=1))


@pytest.mark.parametrize("loss", get_args(Loss))
def test_scores_that_are_not_finite_are_refused_though_the_embeddings_are(loss):
    learner, config = pairs(0, 8, 4), SelectionConfig(filter_ratio=0.5, chunks=1, loss=loss)
    broken = learner._replace(image=learner.image * 1e25, text=learner.text * 1e25)
    with pytest.raises(DataError, match=r"the score of candidate \d is not finite.* unit norm"):
        select(jax.random.key(0), broken, pairs(1, 8, 4), config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": np.zeros((8, 5), np.float32)}, r"learner embeddings have shapes \(8, 4\) \(image\) and \(8, 5\)"),
        ({"image": np.zeros(8, np.float32), "text": np.zeros(8, np.float32)}, r"both must be \[B, d\]"),
        ({"scale": np.ones(1, np.float32)}, r"learner scale and bias must be scalars"),
        ({"bias": np.ones(8, np.float32)}, r"learner scale and bias must be scalars"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, words):
    # What the tests' type checker would refuse before select's own check, so by a tuple of the same fields.
    learner = SimpleNamespace(**(pairs(0, 8, 4)._asdict() | change))
    with pytest.raises(ConfigError, match=words):
        check_shapes(learner, pairs(1, 8, 4), None)


@pytest.mark.parametrize(
    ("valid", "words"),
    [
        (jnp.ones(9, bool), r"valid has shape \(9,\); it must be \[B\] = \(8,\)"),
        (jnp.full(8, 2), r"valid has dtype int\d+; it must be a mask of booleans"),
        (jnp.ones(8, jnp.float32), r"valid has dtype float32"),
    ],
)
def test_masks_that_are_none_are_refused(valid, words):
    with pytest.raises(ConfigError, match=words):
        check_shapes(pairs(0, 8, 4), pairs(1, 8, 4), valid)
