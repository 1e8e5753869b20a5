"""Which rows a curated dataset takes: from the log of a distill run to a ranking of the rows that were ever picked.

Enters: picks and super-batches, as streams. Leaves: one row for every corpus row that was picked, best first, in
blocks. All orders are total (ties are settled by uid), so a budget cuts them reproducibly. DuckDB groups and sorts, on
disk what does not fit into its share of memory.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa

Policy = Literal["visits", "learnability", "recent", "weighted"]

_MEMORY = "1GB"
_BLOCK = 8192  # rows of a ranking that come at a time
_ORDERS: dict[Policy, str] = {
    # Within one epoch every count is 0 or 1; the mean conditional logit then decides.
    "visits": "visits_per_offer DESC, conditional DESC, uid",
    "weighted": "visits_per_offer DESC, conditional DESC, uid",
    "learnability": "learnability DESC, uid",
    "recent": "last_step DESC, visits_per_offer DESC, uid",
}
# Sums of numbers scaled to integers do not depend on the order of addition. A float32 from 2⁻³⁶ on is exact so.
_SCALE = 2**60
_AGGREGATE = """
    CREATE TABLE picked AS
    WITH
        offered AS (
            SELECT block, count(*) AS offers FROM (SELECT unnest(blocks) AS block FROM superbatches) GROUP BY block
        ),
        summed AS (
            SELECT
                row, uid, count(*) AS visits, min(step) AS first_step, max(step) AS last_step,
                {conditional} AS conditional, {learnability} AS learnability
            FROM picks GROUP BY row, uid
        )
    SELECT summed.*, visits::DOUBLE / offers AS visits_per_offer
    FROM summed LEFT JOIN offered ON summed.row // {block_size} = offered.block
"""


@dataclass(frozen=True)
class Ranking:
    """How many rows there are to take; and all of them, best first, in blocks of `row`, `uid` and what is known."""

    rows: int
    blocks: Iterator[pa.Table]


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database with bounded memory and a folder of its own on the local disk."""
    with (
        tempfile.TemporaryDirectory(prefix="superbatch-") as scratch,
        duckdb.connect(config={"temp_directory": scratch, "memory_limit": _MEMORY}) as connection,
    ):
        yield connection


def rank(
    connection: duckdb.DuckDBPyConnection,
    picks: pa.RecordBatchReader,
    superbatches: pa.RecordBatchReader,
    block_size: int,
    policy: Policy,
    groups: pa.RecordBatchReader | None = None,
) -> Ranking:
    """Sums up every picked row (visits, visits per offer, first and last step, means), and ranks them under a policy.

    Args:
      connection: an empty database.
      picks: as `schemas.selections.PICKS`.
      superbatches: as `schemas.selections.SUPERBATCHES`; a row's offers are those of its block. The last block may be
        filled up with rows of the first; those copies were marked invalid and do not count.
      block_size: rows of a block.
      policy: decides the order.
      groups: of every row of the corpus (`row`, `quota`), the group that its quota is counted for.
    """
    connection.register("picks", picks)
    connection.register("superbatches", superbatches)
    learnability = f"({_sum('learner_nll')} - {_sum('reference_nll')})"
    query = _AGGREGATE.format(
        conditional=_mean(_sum("conditional")), learnability=_mean(learnability), block_size=block_size
    )
    connection.execute(query)
    return ranking(connection, "picked", _ORDERS[policy], groups)


def ranking(
    connection: duckdb.DuckDBPyConnection, table: str, order: str, groups: pa.RecordBatchReader | None = None
) -> Ranking:
    """All rows of a table in an order; with `groups`, each with the group that its quota is counted for."""
    [[rows]] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    if groups is not None:
        connection.register("groups", groups)
        connection.execute("CREATE TABLE grouped AS SELECT * FROM groups")
        table = f"{table} JOIN grouped USING (row)"
    batches = connection.sql(f"SELECT * FROM {table} ORDER BY {order}").to_arrow_reader(_BLOCK)
    return Ranking(rows, (pa.Table.from_batches([batch]) for batch in batches))


def weigh(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Makes a table in which every row has a `weight`, its visits per offer over their mean; returns its name."""
    mean = f"(SELECT {_mean(_sum('visits_per_offer'))} FROM {table})"
    connection.execute(f"CREATE TABLE weighed AS SELECT *, visits_per_offer / {mean} AS weight FROM {table}")
    return "weighed"


def _sum(column: str) -> str:
    return f"sum(({column}::DOUBLE * {_SCALE})::HUGEINT)"


def _mean(total: str) -> str:
    return f"{total}::DOUBLE / {_SCALE} / count(*)"
