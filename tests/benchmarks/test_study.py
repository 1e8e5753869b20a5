"""The study: equal runs are one run, needed ones come first, and its page says what its records say."""

import dataclasses
import fcntl
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study import __main__ as command
from benchmarks.study import (
    analysis,
    cells,
    corpora,
    execute,
    experiments,
    gibbs,
    overview,
    page,
    runs,
    schedule,
    training,
    variants,
)
from benchmarks.study.analysis import Curve, Ratio, has_learned, median, ratio
from benchmarks.study.claims import Comparison, pooled, verdict
from benchmarks.study.experiments import jest, uniform
from benchmarks.study.runs import Downstream, Draws, Learner, Reference, identity, label, name_of
from benchmarks.study.store import RESULTS, Store
from schemas.errors import ConfigError
from trainer.selection import PairEmbeddings, SelectionConfig, select


def record(scores: list[float], operations: int = 10, steps: list[int] | None = None, parents: tuple = ()) -> dict:
    steps = steps or [10 * (k + 1) for k in range(len(scores))]
    columns = ["step", "loss", *execute.RECALLS]
    curve = [[step, 0.0, *[score] * 6] for step, score in zip(steps, scores, strict=True)]
    return {
        "columns": columns, "curve": curve, "operations_per_step": operations, "seconds": 1.0, "machine": "m",
        "fingerprints": {"parameters": f"made of {scores}"},
        "parents": {name_of(run): f"made of {of}" for run, of in parents},
    }  # fmt: skip


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_equal_runs_are_one_run_and_any_change_makes_another(monkeypatch):
    learner = jest("openmoji", 0.8, 1)
    assert name_of(jest("openmoji", 0.8, 1, filter_ratio=0.8)) == name_of(learner)
    assert json.loads(json.dumps(identity(learner))) == {"kind": "learner"} | dataclasses.asdict(learner)
    others = [
        dataclasses.replace(learner, **change)
        for change in (
            {"corpus": "flickr8k"}, {"noise": 0.4}, {"seed": 2}, {"criterion": "uniform"}, {"filter_ratio": 0.9},
            {"chunks": 4}, {"joint": False}, {"gain": 2.0}, {"flexi": True}, {"batch_size": 32},
            {"learning_rate": 0.1}, {"reference": Reference(corpus="openmoji", seed=1, pictures=250)},
            {"variant": "mixed"}, {"as_many_steps": True},
        )
    ]  # fmt: skip
    assert len({name_of(run) for run in [learner, *others]}) == len(others) + 1 == 15
    before = name_of(learner)
    monkeypatch.setattr(runs, "WARMUP_STEPS", 21)
    assert name_of(learner) != before


def test_a_label_says_what_is_unusual_of_a_run_and_of_what_it_needs():
    second = jest("openmoji", 0.8, 0, reference=experiments.bootstrapped(jest("openmoji", 0.8, 0, gain=2.0)))
    assert label(second) == (
        "learner corpus=openmoji noise=0.8 seed=0 "
        "reference=(reference corpus=openmoji seed=0 curated_by=(learner corpus=openmoji noise=0.8 seed=0 gain=2.0))"
    )


def test_needed_runs_come_first_and_once():
    [(_, _, downstream)] = itertools.islice(experiments.chain("openmoji", 0), 2, 3)
    listed = schedule.with_needs([downstream, downstream.learner])
    kinds = [type(run).__name__ for run in listed]
    assert kinds == ["Reference", "Learner", "Reference", "Learner", "Reference", "Learner", "Downstream"]
    for place, run in enumerate(listed):
        assert all(needed in listed[:place] for needed in run.needs)


@pytest.mark.parametrize("question", experiments.ALL)
def test_every_question_has_runs_of_all_seeds_and_each_fits_its_super_batch(question):
    listed = list(experiments.ALL[question]("flickr8k", (1, 2)))
    assert {run.seed for run in listed} == ({0} if question == "tuning" else {1, 2})
    for run in listed:
        if isinstance(run, Learner) and run.criterion != "uniform":
            assert run.selection.subbatch_size(run.superbatch) == run.subbatch
            assert run.superbatch % training.BLOCK == 0


def test_a_run_is_repeated_only_if_its_artifact_is_needed_and_gone_or_what_it_was_made_of_has_changed(tmp_path):
    learner = jest("openmoji", 0.8, 0)
    second = Downstream(learner=learner, subset="curated", budget=0.1, seed=0)
    listed, store = schedule.with_needs([second]), Store(tmp_path)
    assert schedule.missing(listed, store, tmp_path) == listed == [learner.guide, learner, second]
    store.add(learner.guide, record([0.1]))
    store.add(learner, record([0.2], parents=((learner.guide, [0.1]),)))
    assert schedule.missing(listed, store, tmp_path) == listed  # nothing lies in the scratch folder
    for run in (learner.guide, learner):
        execute.artifact(tmp_path, run).touch()
    assert schedule.missing(listed, store, tmp_path) == [second]
    store.add(second, record([0.3], parents=((learner.guide, [0.1]), (learner, [0.2]))))
    assert schedule.missing(listed, Store(tmp_path), tmp_path) == []
    store.add(learner, record([0.25], parents=((learner.guide, [0.1]),)))
    assert schedule.missing(listed, Store(tmp_path), tmp_path) == [second]


def test_a_repetition_that_comes_out_otherwise_is_kept_beside_the_record_and_makes_nothing_outdated(tmp_path):
    learner, store = jest("openmoji", 0.8, 1), Store(tmp_path)
    for run, made in ((learner.guide, record([0.1])), (learner, record([0.2], parents=((learner.guide, [0.1]),)))):
        schedule.keep(run, made, store)
    schedule.keep(learner.guide, record([0.1]), store)  # the same to the bit
    assert "repeats" not in Store(tmp_path)[learner.guide]
    assert "carried out again" not in overview.what_was_run(store)
    for _ in range(2):
        schedule.keep(learner.guide, record([0.15]), store)
    store, second = Store(tmp_path), Downstream(learner=learner, subset="curated", budget=0.1, seed=1)
    assert store.parameters_of(learner.guide) == ["made of [0.1]", "made of [0.15]"]
    assert analysis.curve(store[learner.guide]).best == pytest.approx(0.1)
    schedule.keep(second, record([0.3], parents=((learner.guide, [0.15]), (learner, [0.2]))), store)
    execute.artifact(tmp_path, learner.guide).touch()
    assert schedule.missing([learner.guide, learner, second], store, tmp_path) == []
    said = overview.what_was_run(store)
    assert "\n\n1 of them were carried out again" in said
    assert "changed by 50% (median; at most 50%)" in said
    assert said.endswith("1 runs were made of a repetition.")


def test_a_run_made_of_what_no_record_knows_is_replaced(tmp_path):
    learner, store = jest("openmoji", 0.8, 1), Store(tmp_path)
    store.add(learner.guide, record([0.1]))
    store.add(learner, record([0.2], parents=((learner.guide, [0.9]),)))
    schedule.keep(learner, record([0.3], parents=((learner.guide, [0.1]),)), store)
    assert store.parameters_of(learner) == ["made of [0.3]"]


def test_what_a_killed_write_left_is_not_read(tmp_path):
    store = Store(tmp_path)
    store.add(jest("openmoji", 0.8, 1), record([0.1]))
    (tmp_path / ".openmoji-0.8.json.tmp").write_text("[\n{")
    assert len(Store(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--questions", "nonsense"], "questions has nonsense; there are tuning, headline"),
        ([], "flickr8k needs --data, the folder of its tars"),
        (["--corpora", "openmoji", "--seeds", "0"], "seeds is 0"),
    ],
)
def test_what_cannot_be_studied_is_refused_in_one_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["study", *arguments])
    assert command.main() == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_two_studies_do_not_share_a_scratch_folder(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another study is at work in"):
            schedule.carry_out([], Store(tmp_path), None, tmp_path, 1)


def test_all_learners_cost_what_the_uniform_one_does():
    base = uniform("flickr8k", 0.8, 0)
    total = execute.steps_of(base) * training.operations(base)
    assert execute.steps_of(base) == runs.UNIFORM_STEPS["flickr8k"]
    assert execute.steps_of(jest("flickr8k", 0.8, 0, as_many_steps=True)) == runs.UNIFORM_STEPS["flickr8k"]
    for changes in ({}, {"filter_ratio": 0.9}, {"flexi": True}, {"batch_size": 64}):
        learner = jest("flickr8k", 0.8, 0, **changes)
        assert abs(execute.steps_of(learner) * training.operations(learner) - total) <= training.operations(learner)
    assert execute.steps_of(jest("flickr8k", 0.8, 0, criterion="easy_reference")) == execute.steps_of(base)
    assert training.operations(jest("flickr8k", 0.8, 0)) * 3 == training.operations(base) * 8  # (F · 5 + 3F) / 3F


# --- Figures ----------------------------------------------------------------------------------------------------------


def smoothed(*scores: float) -> Curve:
    """A curve whose scores, smoothed, are these: it is the mean of two at the ends and of three in between."""
    rows = [[1 if abs(i - j) <= 1 else 0 for j in range(len(scores))] for i in range(len(scores))]
    matrix = np.array([np.array(row) / sum(row) for row in rows])
    return Curve(np.arange(1, len(scores) + 1) * 10, np.linalg.solve(matrix, scores), 1)


@pytest.mark.parametrize(
    ("scores", "reached"),
    [
        ([0.0, 0.2, 0.4, 0.4], 17.5),  # on the line between 10 and 20
        ([0.2, 0.3, 0.3, 0.3], 10),  # at the first evaluation
        ([0.0, 0.0, 0.0, 0.2], 37.5),
        ([0.0, 0.1, 0.12, 0.1], None),
    ],
)
def test_a_level_is_reached_where_the_smoothed_score_passes_it(scores, reached):
    assert smoothed(*scores).reaches(0.15) == (reached and pytest.approx(reached))


def test_a_lucky_evaluation_counts_a_third():
    curve = Curve(np.arange(10, 60, 10), np.array([0.1, 0.1, 0.4, 0.1, 0.1]), 1)
    np.testing.assert_allclose(curve.smooth, [0.1, 0.2, 0.2, 0.2, 0.1])
    assert (curve.best, curve.best_step) == (pytest.approx(0.2), 20)


def test_the_ratio_is_to_the_best_and_not_to_the_last():
    base, ours = (
        record([0.1, 0.4, 0.4, 0.4, 0.0, 0.0], operations=10),
        record([0.4] * 3, operations=40, steps=[3, 6, 9]),
    )
    never = record([0.1, 0.2, 0.3], operations=40, steps=[3, 6, 9])
    found = ratio([base, base, base], [ours, never, ours])
    assert found == Ratio([10.0, None, 10.0], [2.5, None, 2.5])  # 30 over 3
    assert (median(found.steps), median([None, None, 2.0])) == (10.0, None)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_a_run_is_as_soon_as_itself(scores):
    assert ratio([record(scores)], [record(scores)]) == Ratio([1.0], [1.0])


def test_a_run_has_learned_if_it_leaves_what_its_first_evaluations_swing_by():
    first = [0.009, 0.010, 0.011, 0.010]
    assert not has_learned(record([*first, 0.012, 0.0130, 0.0130]))
    assert not has_learned(record([*first, 0.018, 0.01, 0.01]))  # a single lucky one
    assert has_learned(record([*first, 0.012, 0.0140, 0.0145]))


def test_a_claim_holds_partly_if_more_comparisons_hold_than_are_reversed():
    better = Comparison([2.0, 2.1, 2.2], [1.0, 1.0, 1.0])
    same = Comparison([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    unsure = Comparison([1.0, 1.1, 1.3], [1.0, 1.0, 1.0])  # 1.5 standard errors
    worse = Comparison([0.0, 0.1, 0.0], [1.0, 1.0, 1.0])
    assert verdict([better, better]) == "**Holds**: better in 2 of 2 comparisons."
    assert verdict([better, same]) == "**Holds partly**: better in 1 of 2 comparisons."
    assert verdict([better, same, worse]) == "**Does not hold here**: better in 1 of 3 comparisons, worse in 1."
    assert verdict([better, None]) == "**Holds so far**: better in 1 of 1 comparisons; 1 not run."
    assert verdict([same, unsure]) == "**Does not hold here**: better in 0 of 2 comparisons."
    assert verdict([None]) == "**Not run yet.**"


def test_comparisons_of_a_corpus_count_each_seed_once():
    first = Comparison([2.0, 4.0], [1.0, 1.0], "a")
    second = Comparison([2.0, 0.25], [1.0, 1.0], "a")
    other = Comparison([8.0, 8.0], [2.0, 4.0], "b")
    together = pooled([first, other, second])
    differences = np.subtract(together.ours, together.base)
    assert differences == pytest.approx(np.log([2.0, 1.0, 4.0, 2.0]))
    assert cells.relative(together) == "+100 ± 57 %"  # the middle of 2, 1, 4 and 2 on a logarithmic scale
    assert cells.judged([first, None]) == verdict([first, None])  # one says nothing beside its own
    assert cells.judged([other, other]).endswith("Together +183 ± 98 % of the score: not told apart.")


def test_separation_is_the_chance_that_a_matched_pair_is_better_aligned():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 50, 4)).astype(np.float32)
    matched = rng.random(50) < 0.4
    pairs = corpora.Pairs(*[np.zeros((50, 1))] * 4, matched=matched)
    aligned = (vectors[0] * vectors[1]).sum(1)
    expected = np.mean(aligned[matched][:, None] > aligned[~matched][None])
    embedded = training.Embedded(*vectors, 1.0, 0.0)
    assert execute.separation(embedded, pairs) == pytest.approx(expected)
    rows = np.arange(50) < 30
    left = np.mean(aligned[matched & rows][:, None] > aligned[~matched & rows][None])
    assert execute.separation(embedded, pairs, rows) == pytest.approx(left)


def drawn(variant, scores, chunks=3, valid=None):
    config = SelectionConfig(filter_ratio=0.5, chunks=chunks, gain=2.0)
    valid = np.ones(len(scores), bool) if valid is None else valid
    return np.asarray(variants.draw(jax.random.key(3), jnp.asarray(scores), config, jnp.asarray(valid), variant))


def test_the_plain_variant_is_the_products_own_draw():
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(24, 8)).astype(np.float32) for _ in range(4)]
    vectors = [jnp.asarray(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in vectors]
    learner, reference = (PairEmbeddings(*pair, jnp.float32(5), jnp.float32(-2)) for pair in (vectors[:2], vectors[2:]))
    scores = variants._losses(learner) - variants._losses(reference)
    valid = np.arange(24) != 5
    config = SelectionConfig(filter_ratio=0.5, chunks=3, gain=2.0)
    theirs = select(jax.random.key(3), learner, reference, config, valid=jnp.asarray(valid))
    assert drawn("", scores, valid=valid).tolist() == np.asarray(theirs.index).tolist()


def test_variants_change_the_scores_as_they_say():
    scores = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    deviation = np.diagonal(scores).std()
    assert drawn("normalised", 7 * scores).tolist() == drawn("", scores / deviation).tolist()
    assert drawn("clipped", 100 * scores).tolist() == drawn("", np.clip(100 * scores, -3, 3)).tolist()
    loud = np.diag(np.where(np.arange(20) < 10, 1000.0, 0.0)).astype(np.float32)
    assert set(drawn("", loud).tolist()) == set(range(10))
    mixed = drawn("mixed", loud)
    assert len(set(mixed.tolist())) == 10
    assert set(mixed[:8].tolist()) <= set(range(10))
    assert sum(pick >= 10 for pick in mixed[8:].tolist()) > 0
    with pytest.raises(ConfigError, match="variant is 'best'; it must be one of '', 'normalised'"):
        variants.check("best")


def test_exchanges_leave_the_distribution_over_sub_batches_as_it_is():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 5))
    subsets = list(itertools.combinations(range(5), 2))
    weights = np.exp([gibbs.learnability(scores, np.array(subset)) * 2 for subset in subsets])
    picks, counts = np.array([0, 1]), dict.fromkeys(subsets, 0)
    for _ in range(20_000):
        picks = gibbs.gibbs(scores, picks, 1, rng)
        counts[tuple(sorted(picks.tolist()))] += 1
    shares = np.array(list(counts.values())) / 20_000
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)


# --- Carried out ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """A study of few steps with narrow towers on a handful of pictures."""
    narrow = dataclasses.replace(runs.TOWERS.image, width=8, depth=1, mlp=8)
    towers = dataclasses.replace(runs.TOWERS, image=narrow, text=narrow, embedding=8)
    for module in (runs, training):
        monkeypatch.setattr(module, "TOWERS", towers)
    monkeypatch.setattr(training, "_EMBED", 64)
    monkeypatch.setattr(training, "evaluated_steps", lambda steps: sorted({2, steps}))
    for module in (runs, execute):
        monkeypatch.setattr(module, "UNIFORM_STEPS", {"openmoji": 11})
        monkeypatch.setattr(module, "DOWNSTREAM_STEPS", {"openmoji": 2})
        monkeypatch.setattr(module, "BATCH_SIZE", {"openmoji": 16})
        monkeypatch.setattr(module, "REFERENCE_BATCH", 16)

    def pairs(seed: int, count: int) -> corpora.Pairs:
        rng = np.random.default_rng(seed)
        return corpora.Pairs(
            image=rng.integers(0, 256, (count, 64, 64, 3), np.uint8),
            tokens=rng.integers(2, 20, (count, 16), np.int32),
            uid=rng.integers(0, 256, (count, 16), np.uint8),
            picture=np.arange(count),
            matched=rng.random(count) < 0.5,
        )

    found = corpora.Corpus("openmoji", 0.8, pairs(0, 32), pairs(1, 100), pairs(2, 40), vocabulary=20)
    monkeypatch.setattr(execute, "load", lambda *_: found)
    return found


def test_a_variant_of_the_draw_is_carried_out_too(small, tmp_path):
    learner = jest("openmoji", 0.8, 0, chunks=4, variant="mixed")
    towers = training.build(20, 1)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(towers.parameters)]
    arrays = {f"leaf_{k}": leaf for k, leaf in enumerate(leaves)} | {"parameters": "p"}
    execute._save(execute.artifact(tmp_path, learner.guide), arrays)
    made = execute.execute(learner, None, tmp_path)
    kept, passed = ([row[made["columns"].index(name)] for row in made["curve"]] for name in ("kept", "passed"))
    assert np.mean(kept) > np.mean(passed)


def test_a_round_of_the_study_counts_its_picks_and_trains_on_them(small, tmp_path):
    learner = jest("openmoji", 0.8, 0, chunks=4)
    second = Downstream(learner=learner, subset="curated", budget=0.2, seed=0)
    made = {}
    for run in schedule.with_needs([second]):
        made = execute.execute(run, None, tmp_path)
        steps = {Reference: runs.REFERENCE_STEPS, Learner: 4, Downstream: 2}[type(run)]
        assert [row[0] for row in made["curve"]] == sorted({2, steps})
        assert all(len(row) == len(made["columns"]) for row in made["curve"])
        assert json.loads(json.dumps(made)) == made
        assert list(made["parents"]) == [name_of(needed) for needed in run.needs]
    with np.load(execute.artifact(tmp_path, learner)) as stored:
        visits, offers, conditional = (stored[name] for name in execute.COUNTS)
    assert visits.sum() == 4 * 16
    assert (visits <= offers).all()
    assert 4 * (80 - 12) <= offers.sum() <= 4 * 80  # the last block has 12 rows of filling
    rows = execute.curated_rows(learner, 20, tmp_path)
    best = sorted(np.flatnonzero(visits), key=lambda row: (-visits[row] / offers[row], -conditional[row]))
    assert rows.tolist() == best[:20]
    assert made["matched"] == pytest.approx(small.pool.matched[rows].mean())
    assert made["fingerprints"]["pool"] == small.pool.fingerprint

    picked = np.count_nonzero(visits)
    assert len(execute.curated_rows(learner, 100, tmp_path)) == picked < 100
    everything = dataclasses.replace(second, subset="control", budget=1.0)
    assert execute.execute(everything, None, tmp_path)["pairs"] == picked  # as many as the curated set has

    drawn = execute.execute(Draws(learner=learner), None, tmp_path)
    means = {name: np.mean(values) for name, values in drawn["learnability"].items()}
    assert means["16 chunks"] > means["random"]
    assert list(drawn["parents"]) == [name_of(learner.guide), name_of(learner)]


def test_learnability_is_told_as_a_share_of_what_the_longest_gibbs_chain_gains():
    draws = {"random": [-3.0, -1.0], "16 chunks": [2.0, 2.0], "8 exchanges": [-1.0, 1.0], "32 exchanges": [1.0, 3.0]}
    shares = analysis.share_of_gibbs({"learnability": draws})
    assert shares == {"random": 0.0, "16 chunks": 1.0, "8 exchanges": 0.5, "32 exchanges": 1.0}


# --- The page ---------------------------------------------------------------------------------------------------------


def test_the_page_and_the_headline_show_what_was_measured():
    written, records = page.PAGE.read_text(), Store()
    assert page.rendered(written, records) == written
    assert json.loads(page.HEADLINE.read_text()) == overview.headline(records)


def test_every_record_is_of_a_run_that_a_question_asks_for():
    stored = {record["name"] for path in RESULTS.glob("*.json") for record in json.loads(path.read_text())}
    assert stored <= {name_of(run) for run in overview.asked()}


def test_the_headline_names_seeds_files_and_runs(tmp_path):
    store = Store(tmp_path)
    assert overview.headline(store) == []
    for seed in cells.SEEDS:
        store.add(uniform("openmoji", 0.4, seed), record([0.1, 0.2, 0.2, 0.4]))
        store.add(jest("openmoji", 0.4, seed, as_many_steps=True), record([0.5, 0.5], operations=20, steps=[4, 8]))
        for changes in ({"filter_ratio": 0.9}, {"flexi": True}):
            slow = record([0.5, 0.5], operations=20, steps=[8, 9])
            store.add(jest("openmoji", 0.4, seed, **changes), slow)
    [row] = overview.headline(store)
    assert (row["corpus"], row["noise"], row["seeds"]) == ("openmoji", 0.4, [1, 2, 3])
    assert (row["steps_ratio"], row["steps_of"]) == (10.0, "JEST, f = 0.8")
    assert (row["flops_ratio"], row["flops_of"]) == (2.5, "JEST, f = 0.9")
    assert row["flops_of_seeds"] == {"JEST, f = 0.9": [2.5] * 3, "Flexi-JEST, f = 0.8": [2.5] * 3}
    assert (row["reference_alone_flops_ratio"], row["reference_alone_flops_of"]) == (None, None)
    assert row["result_files"] == ["study/openmoji-0.4.json"]
    assert row["runs"]["uniform"] == [name_of(uniform("openmoji", 0.4, seed)) for seed in cells.SEEDS]
    assert "| not run |" in overview.in_short(store)
    alone = [jest("openmoji", 0.4, seed, criterion="easy_reference") for seed in cells.SEEDS]
    for run in alone:
        store.add(run, record([0.5, 0.5], steps=[2, 4]))
    [row] = overview.headline(store)
    assert (row["flops_ratio"], row["reference_alone_flops_ratio"]) == (2.5, 20.0)
    assert row["runs"]["easy reference, f = 0.8"] == [name_of(run) for run in alone]
    assert "| **20.0×** (easy reference, f = 0.8) |" in overview.in_short(store)


def test_a_page_without_a_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 places for 'in short'"):
        page.rendered("# Results\n", Store(tmp_path))
