"""Policies against an independent pandas computation, and their cuts."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from beam_pipelines import policies
from schemas import selections

ROWS, BLOCK = 50, 4


@pytest.fixture(scope="module")
def logged():
    rng = np.random.default_rng(0)
    steps, size = 12, 8
    rows = np.concatenate([rng.choice(ROWS, size, replace=False) for _ in range(steps)])
    picks = pa.table(
        {
            "step": np.repeat(np.arange(steps), size),
            "pick": np.tile(np.arange(size, dtype=np.int32), steps),
            "chunk": np.zeros(steps * size, np.int32),
            "row": rows,
            "uid": [f"{row * 7919 % 1000:032x}" for row in rows],
            "learner_nll": rng.normal(size=steps * size).astype(np.float32),
            "reference_nll": rng.normal(size=steps * size).astype(np.float32),
            "conditional": rng.normal(size=steps * size).astype(np.float32),
        },
        schema=selections.PICKS,
    )
    blocks = [rng.choice(-(-ROWS // BLOCK), 9, replace=False) for _ in range(30)]
    offered = {"step": range(30), "blocks": blocks, "score_quantiles": [[0.0]] * 30}
    return picks, pa.table(offered, schema=selections.SUPERBATCHES)


def rank(picks: pa.Table, offered: pa.Table, policy) -> pa.Table:
    with policies.database() as connection:
        found = policies.rank(connection, picks.to_reader(7), offered.to_reader(), BLOCK, policy)
        ranked = pa.concat_tables(found.blocks)
        assert found.rows == ranked.num_rows
        return ranked


def by_pandas(picks: pa.Table, offered: pa.Table) -> pd.DataFrame:
    times = np.bincount(np.concatenate(offered["blocks"].to_pylist()), minlength=-(-ROWS // BLOCK))
    offers = np.repeat(times, BLOCK)[:ROWS]
    frame = picks.to_pandas()
    for column in ("learner_nll", "reference_nll", "conditional"):
        frame[column] = frame[column].astype("float64")
    frame["learnability"] = frame["learner_nll"] - frame["reference_nll"]
    found = frame.groupby("row").agg(
        uid=("uid", "first"), visits=("step", "size"), first_step=("step", "min"), last_step=("step", "max"),
        conditional=("conditional", "mean"), learnability=("learnability", "mean"),
    )  # fmt: skip
    found["visits_per_offer"] = found["visits"] / offers[found.index]
    return found.reset_index()


ORDERS = {
    "visits": (["visits_per_offer", "conditional", "uid"], [False, False, True]),
    "learnability": (["learnability", "uid"], [False, True]),
    "weighted": (["visits_per_offer", "conditional", "uid"], [False, False, True]),
    "recent": (["last_step", "visits_per_offer", "uid"], [False, False, True]),
}


@pytest.mark.parametrize("policy", ORDERS)
def test_policies_choose_what_pandas_chooses(logged, policy):
    columns, ascending = ORDERS[policy]
    expected = by_pandas(*logged).sort_values(columns, ascending=ascending)
    chosen = rank(*logged, policy)
    assert chosen["row"].to_pylist() == expected["row"].tolist()
    for field in ("visits", "first_step", "last_step"):
        assert chosen[field].to_pylist() == expected[field].tolist()
    np.testing.assert_allclose(chosen["learnability"], expected["learnability"], rtol=1e-12)


def test_weights_are_visits_per_offer_over_their_mean_in_the_dataset(logged):
    expected = by_pandas(*logged).sort_values(*ORDERS["weighted"][:1], ascending=ORDERS["weighted"][1])[:11]
    with policies.database() as connection:
        policies.rank(connection, *(table.to_reader() for table in logged), BLOCK, "weighted")
        connection.execute("CREATE TABLE best AS SELECT * FROM picked ORDER BY visits_per_offer DESC LIMIT 0")
        for row in expected["row"]:
            connection.execute(f"INSERT INTO best SELECT * FROM picked WHERE row = {row}")
        weighed = policies.weigh(connection, "best")
        found = connection.sql(f"SELECT row, weight FROM {weighed}").df().set_index("row")["weight"]
    wanted = expected.set_index("row")["visits_per_offer"]
    np.testing.assert_allclose(found[wanted.index], wanted / wanted.mean(), rtol=1e-12)
    assert found.std() > 0.1


def test_ties_are_settled_by_uid():
    picks = pa.table(
        {
            "step": [0, 0, 0],
            "pick": pa.array([0, 1, 2], pa.int32()),
            "chunk": pa.array([0, 0, 0], pa.int32()),
            "row": [0, 1, 2],
            "uid": ["c", "a", "b"],
            **{name: pa.array([1.0] * 3, pa.float32()) for name in ("learner_nll", "reference_nll", "conditional")},
        }
    )
    offered = pa.table({"blocks": pa.array([[0]], pa.list_(pa.int64()))})
    assert rank(picks, offered, "visits")["uid"].to_pylist() == ["a", "b", "c"]


def test_sums_do_not_depend_on_the_order_of_addition(logged):
    picks, offered = logged
    whole = rank(picks, offered, "learnability")
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(picks.num_rows)
        assert rank(picks.take(order), offered, "learnability").equals(whole)
