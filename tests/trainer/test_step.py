"""Towers, losses and the step: definitions checked against NumPy, and a learner that learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from schemas.errors import ConfigError
from tests.trainer import published
from trainer import presets
from trainer.config import DistillConfig, Scoring, TrainConfig
from trainer.evaluate import retrieval
from trainer.losses import contrastive_loss, sigmoid_loss, softmax_loss
from trainer.model import Architecture, embed_pairs, parameters_fingerprint
from trainer.selection import PairEmbeddings, SelectionConfig, select
from trainer.step import Candidates, Part, Program, distill_step, initial_state, learn_step

ARCHITECTURE = Architecture("tiny", 32, 64)
UID = np.random.default_rng(9).integers(0, 256, (64, 16), dtype=np.uint8)


def pairs(rows: int) -> PairEmbeddings:
    rng = np.random.default_rng(0)
    image, text = (jnp.asarray(published.unit(rng, rows, 8, np.float32)) for _ in range(2))
    return PairEmbeddings(image, text, jnp.float32(7.0), jnp.float32(-5.0))


def batch(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    tokens = rng.integers(3, 64, (rows, 16)).astype(np.int32)
    tokens[:, -1] = 1
    return image, tokens


def test_sigmoid_loss_is_its_definition():
    expected = published.sigmoid_matrix(pairs(6)).sum() / 6
    np.testing.assert_allclose(sigmoid_loss(pairs(6)), expected, rtol=1e-5)


def test_softmax_loss_is_its_definition():
    p = pairs(6)
    logits = 7.0 * np.asarray(p.image, np.float64) @ np.asarray(p.text, np.float64).T
    log_softmax = [logits - np.logaddexp.reduce(logits, axis=axis, keepdims=True) for axis in (0, 1)]
    expected = -np.mean([np.diag(both).mean() for both in log_softmax])
    np.testing.assert_allclose(softmax_loss(p), expected, rtol=1e-5)


def test_embeddings_are_unit_norm_and_do_not_depend_on_the_batch():
    graph, parameters = ARCHITECTURE.build(seed=0)
    image, tokens = batch(6)
    whole = embed_pairs(graph, parameters, image, tokens)
    np.testing.assert_allclose(jnp.linalg.norm(whole.image, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(whole.text, axis=1), 1, atol=1e-5)
    part = embed_pairs(graph, parameters, image[2:4], tokens[2:4])
    np.testing.assert_allclose(part.image, whole.image[2:4], atol=1e-5)
    np.testing.assert_allclose(part.text, whole.text[2:4], atol=1e-5)
    np.testing.assert_allclose(whole.scale, 10, rtol=1e-6)


def test_two_builds_share_a_graph_and_seeds_decide_parameters():
    (graph, first), (again, same), (_, other) = (ARCHITECTURE.build(seed) for seed in (0, 0, 1))
    assert graph == again
    assert parameters_fingerprint(first) == parameters_fingerprint(same) != parameters_fingerprint(other)


def test_a_resolution_that_patches_do_not_fill_is_refused():
    with pytest.raises(ConfigError, match="resolution 40 is not a multiple of the patch size 16: choose 32 or 48"):
        Architecture("tiny", 40, 64).build(0)


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_preset_has_consistent_shapes(preset, monkeypatch):
    found = presets.get(preset)
    # Full width at depth 2: a deep model takes half a minute to build under the tests' type checker.
    shallow = {tower: dataclasses.replace(getattr(found, tower), depth=2) for tower in ("image", "text")}
    found = dataclasses.replace(found, **shallow)
    monkeypatch.setitem(presets.PRESETS, preset, found)
    shapes = jax.eval_shape(lambda: Architecture(preset, found.patch_size * 4, 64).build(0)[1])
    if found.image_head:
        assert shapes["image"]["head"]["kernel"].shape == (found.image.width, found.embedding)
    else:
        assert "head" not in shapes["image"]
        assert found.image.width == found.embedding
    assert len(shapes["text"]["encoder"]["blocks"]) == found.text.depth


def test_uniform_steps_learn_a_batch_by_heart():
    config = TrainConfig(corpus="", workdir="", steps=60, warmup_steps=5, batch_size=16, block_size=16).optimisation
    graph, parameters = ARCHITECTURE.build(0)
    program, state = Program(graph=graph, optimisation=config), initial_state(parameters, config)
    losses = []
    for _ in range(60):
        state, loss = learn_step(program, state, [Part(*batch(16))])
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.step) == 60


def test_distill_step_scores_selects_and_learns_from_exactly_its_picks():
    config = DistillConfig(
        corpus="",
        workdir="",
        embeddings="",
        steps=10,
        warmup_steps=1,
        batch_size=8,
        block_size=8,
        filter_ratio=0.75,
        chunks=2,
    )
    graph, parameters = ARCHITECTURE.build(0)
    key, (image, tokens), reference = jax.random.key(3), batch(32), pairs(32)
    valid = np.ones(32, bool)
    valid[5] = False
    learner = embed_pairs(graph, parameters, image, tokens)
    expected = select(
        jax.random.fold_in(key, 0),
        learner,
        reference,
        SelectionConfig(filter_ratio=0.75, chunks=2),
        valid=jnp.asarray(valid),
    )
    # 12 does not divide 32: the last scoring batch is padded, and the padding cut off.
    program = Program(
        graph=graph, optimisation=config.optimisation, selection=config.selection, scoring=Scoring(batch=12)
    )
    candidates = Candidates(image, tokens, UID[:32], valid, reference)
    begin = initial_state(jax.tree.map(jnp.copy, parameters), config.optimisation)  # a step consumes its state
    state, loss, scored = distill_step(program, begin, key, candidates)
    np.testing.assert_array_equal(scored.picks.index, expected.index)
    index = np.asarray(expected.index)
    np.testing.assert_array_equal(scored.uid, UID[index])
    assert scored.usable == 31
    alone, loss_alone = learn_step(
        program, initial_state(jax.tree.map(jnp.copy, parameters), config.optimisation),
        [Part(image[index], tokens[index])],
    )  # fmt: skip
    np.testing.assert_allclose(loss, loss_alone, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(state.parameters), jax.tree.leaves(alone.parameters), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    kept = np.isin(np.arange(32), index)
    own = np.diag(published.sigmoid_matrix(learner)) - np.diag(published.sigmoid_matrix(reference))
    np.testing.assert_allclose(scored.learnability_kept, own[kept].mean(), rtol=1e-3)
    np.testing.assert_allclose(scored.learnability_passed, own[valid & ~kept].mean(), rtol=1e-3)
    np.testing.assert_allclose(
        np.asarray(scored.score_quantiles)[[0, -1]], [own[valid].min(), own[valid].max()], rtol=1e-3
    )


def test_flexi_scores_coarsely_and_learns_half_coarse_half_fine():
    config = DistillConfig(
        corpus="", workdir="", embeddings="", steps=10, warmup_steps=1, batch_size=9, block_size=9, filter_ratio=0.75,
        chunks=2, resolution=32, flexi=True, scoring_batch=36,
    )  # fmt: skip
    assert config.scoring == Scoring(batch=36, patch=32, coarse_patch=32)
    graph, parameters = ARCHITECTURE.build(0)
    key, (image, tokens), reference = jax.random.key(3), batch(36), pairs(36)
    coarse = embed_pairs(graph, parameters, image, tokens, 32)
    expected = select(jax.random.fold_in(key, 0), coarse, reference, config.selection)
    program = Program(graph=graph, optimisation=config.optimisation, selection=config.selection, scoring=config.scoring)
    candidates = Candidates(image, tokens, UID[:36], np.ones(36, bool), reference)
    begin = initial_state(jax.tree.map(jnp.copy, parameters), config.optimisation)
    _, loss, scored = distill_step(program, begin, key, candidates)
    np.testing.assert_array_equal(scored.picks.index, expected.index)
    fine = embed_pairs(graph, parameters, image, tokens)
    index = np.asarray(expected.index)
    halves = [(fine, index[::2]), (coarse, index[1::2])]
    assert [len(half) for _, half in halves] == [5, 4]
    both = PairEmbeddings(
        *(jnp.concatenate([getattr(of, field)[half] for of, half in halves]) for field in ("image", "text")),
        fine.scale,
        fine.bias,
    )
    np.testing.assert_allclose(loss, contrastive_loss(both, config.loss), rtol=1e-5)
    all_fine = PairEmbeddings(fine.image[index], fine.text[index], fine.scale, fine.bias)
    assert abs(float(loss) - float(contrastive_loss(all_fine, config.loss))) > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"resolution": 48}, r"flexi scores in patches of 32 pixels, and resolution 48 .*choose 64, or --no-flexi"),
        ({"batch_size": 1, "block_size": 1, "chunks": 1}, r"flexi halves the sub-batch, and batch_size is 1"),
    ],
)
def test_flexi_needs_coarse_patches_and_two_examples(fields, words):
    with pytest.raises(ConfigError, match=words):
        DistillConfig(corpus="", workdir="", embeddings="", flexi=True, **fields)


def test_retrieval_counts_by_hand():
    image = np.eye(3, dtype=np.float32)
    # Texts 0 and 1 belong to image 0; text 2, of image 1, looks like image 2; text 3 is image 2's.
    text = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0.4, 0.5], [0, 0, 1]], np.float32)
    figures = retrieval(image, text, np.array([0, 0, 1, 2]))
    assert figures["text_to_image_recall_at_1"] == 3 / 4
    assert figures["text_to_image_recall_at_5"] == 1
    assert figures["image_to_text_recall_at_1"] == 1
    assert (figures["images"], figures["texts"]) == (3, 4)


def test_what_is_not_a_number_counts_against_the_model():
    image, text = np.eye(20, dtype=np.float32), np.eye(20, dtype=np.float32)
    image[0] = text[5] = np.nan
    figures = retrieval(image, text, np.arange(20))
    assert figures["text_to_image_recall_at_1"] == 0  # a picture that could be anything is a wrong answer to all
    assert figures["text_to_image_recall_at_5"] == 18 / 20
    assert figures["image_to_text_recall_at_5"] == 18 / 20


def test_a_collapsed_model_retrieves_nothing():
    figures = retrieval(np.ones((20, 2), np.float32), np.ones((20, 2), np.float32), np.arange(20))
    assert figures["text_to_image_recall_at_10"] == 0
    assert figures["image_to_text_recall_at_10"] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"preset": "huge"}, "preset is 'huge'.*tiny, S/16"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 100}, "block_size is 32 and 500 candidates"),
        ({"filter_ratio": 1.0}, r"filter_ratio is 1\.0"),
        ({"chunks": 200}, "chunks is 200"),
        ({"batch_size": 7, "block_size": 1, "filter_ratio": 0.3, "chunks": 8}, "chunks is 8"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0"),
        ({"warmup_steps": 5000}, "warmup_steps is 5000"),
        ({"resolution": 0}, "resolution is 0"),
        ({"steps_per_part": 0}, "steps_per_part is 0"),
    ],
)
def test_bad_configs_are_refused_when_constructed(fields, words):
    with pytest.raises(ConfigError, match=words):
        DistillConfig(corpus="c", workdir="w", embeddings="e", **fields)


def test_a_step_is_compiled_once():
    config = TrainConfig(corpus="", workdir="", steps=3, warmup_steps=1, batch_size=4, block_size=4).optimisation
    graph, parameters = ARCHITECTURE.build(7)
    program, state = Program(graph=graph, optimisation=config), initial_state(parameters, config)
    before = learn_step._cache_size()
    for _ in range(2):
        state, _ = learn_step(program, state, [Part(*batch(4))])
    assert learn_step._cache_size() == before + 1
