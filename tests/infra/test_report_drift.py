"""Drift beside chance: a random part of the pool must look like one, however little of either was counted."""

from collections import Counter

import numpy as np
import pytest

from infra.report import drift
from infra.report.rows import Survey


def test_drift_is_measured_in_bits_beside_chance():
    assert drift.divergence(np.array([5, 0]), np.array([0, 9])) == pytest.approx(1)
    assert drift.divergence(np.array([2, 4]), np.array([1, 2])) == pytest.approx(0)
    assert drift.divergence(np.array([1, 0]), np.array([1, 1])) == pytest.approx(0.3112781245)  # by hand
    rng = np.random.default_rng(3)
    pool = rng.normal(size=4000)
    sets = {"pool": pool, "curated": np.sort(pool)[2000:], "uniform": rng.choice(pool, 2000, replace=False)}
    found = drift._binned("x", "y", sets, whole=False)
    assert found.drift("curated") > 0.3 > 10 * found.noise["curated"]
    assert found.drift("uniform") < 2 * found.noise["uniform"]
    assert found.counts["pool"].sum() == 4000


@pytest.mark.parametrize("value", ["other", "all others"])
def test_the_rest_of_the_sources_has_a_name_of_its_own(value):
    """So that in a chart it is never one with a source."""
    sources = Counter({value: 40} | {f"host {place}": 9 - place // 4 for place in range(12)})
    found = drift._categories("source", "source", {"pool": sources}, drift.ALL_SHARED)
    assert len(set(found.labels)) == len(found.labels) == 9
    assert (found.labels[0], found.counts["pool"][0]) == (value, 40)
    assert found.labels[-1] not in sources
    assert found.counts["pool"][-1] == sources.total() - found.counts["pool"][:-1].sum() > 0


@pytest.mark.parametrize(
    ("pool_rows", "rows", "limit", "in_order"),
    [(1000, 300, 1000, True), (20_000, 913, 1000, True), (4000, 2000, 500, True), (4000, 2000, 500, False)],
)
def test_a_random_part_of_the_pool_drifts_beyond_chance_once_in_twenty(pool_rows, rows, limit, in_order):
    """However much of either was counted, and whether the part is in the pool's order or in one of its own."""

    def survey(order: np.ndarray) -> Survey:
        seen = order[:limit]
        return Survey(
            rows=len(order), uids=[str(row) for row in seen], characters=lengths[seen].tolist(),
            sides=sides[seen].tolist(), languages=Counter(f"l{value}" for value in languages[seen]),
            sources=Counter(f"s{value}" for value in sources[seen]),
        )  # fmt: skip

    beyond = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lengths, sides = rng.poisson(30, pool_rows), 2 ** rng.uniform(4, 9, pool_rows)
        languages, sources = rng.geometric(0.4, pool_rows).clip(0, 6), rng.integers(0, 9, pool_rows)
        part = rng.permutation(pool_rows)[:rows]
        found = drift.measures(
            {"pool": survey(np.arange(pool_rows)), "uniform": survey(np.sort(part) if in_order else part)}, {}
        )
        beyond += [measure.drift("uniform") > measure.noise["uniform"] for measure in found]
    assert 1 <= sum(beyond) <= 10  # of 80


def test_chance_has_no_share_in_a_dataset_that_is_the_whole_pool():
    base = np.array([700, 0, 300])
    assert drift._noise(base, rows=1000, shared=1000, unseen=0) == 0
    assert drift._noise(base, rows=1000, shared=1000, unseen=10**12) == 0
    assert drift._noise(base, rows=1000, shared=0, unseen=10**12) == pytest.approx(
        0.0014, rel=0.3
    )  # χ²₁: 3.84 / 4n ln 2
    assert drift._noise(base, rows=50, shared=0, unseen=0) > 0.005  # no part of it
    assert drift._noise(np.zeros(3, int), rows=5, shared=0, unseen=9) == 0
