"""What the log of picks says of the rows: who was offered, picked, picked again, and what was passed over.

Enters: a complete selections directory and, where it is known, the truth. Leaves: counts, and rows of the pool to look
at. The log is streamed into DuckDB, which sorts and groups on disk what does not fit into its share of memory. One
thread, so that sums of floats come out the same every time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from beam_pipelines import policies
from schemas import selections
from schemas.manifest import Manifest

_MANY_VISITS = 20  # from here on, rows are counted together
_PICKED = """
    CREATE TABLE picked AS SELECT
        row, uid, count(*) AS visits, min(step) AS first_step, max(step) AS last_step,
        avg(learner_nll::DOUBLE - reference_nll::DOUBLE) AS learnability,
        avg(reference_nll::DOUBLE) AS reference_nll
    FROM picks GROUP BY row, uid
"""


@dataclass(frozen=True)
class PickedRow:
    """A row of the pool that was picked: learnability and the reference's loss are means over its picks, in nats."""

    row: int
    uid: str
    visits: int
    first_step: int
    last_step: int
    learnability: float
    reference_nll: float


@dataclass(frozen=True)
class Moment:
    """Rows of the pool that one step picked and passed over."""

    step: int
    picked: list[int]
    passed: list[int]


@dataclass(frozen=True, kw_only=True)
class PickLog:
    """The counts of a log."""

    steps: int
    places: int
    """candidates over all steps"""
    picks: int
    distinct: int
    """rows that were picked"""
    offered_rows: int
    """rows that were offered"""
    never_offered: int
    visits: list[tuple[str, int]]
    """rows by how often they were picked; never picked and never offered are apart"""


class Log:
    """An open log."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, block_size: int, corpus_rows: int):
        self._connection = connection
        self._block_size = block_size
        self._rows = corpus_rows

    def count(self) -> PickLog:
        """Counts picks and offers. Copies that fill up the last block are no offers of rows."""
        [[steps, blocks]] = self._ask("SELECT count(*), coalesce(sum(len(blocks)), 0) FROM superbatches")
        [[picks, distinct]] = self._ask("SELECT coalesce(sum(visits), 0), count(*) FROM picked")
        size, rows = self._block_size, self._rows
        [[offered]] = self._ask(
            f"SELECT coalesce(sum(least({size}, {rows} - block * {size})), 0) "
            "FROM (SELECT DISTINCT unnest(blocks) AS block FROM superbatches)"
        )
        many = _MANY_VISITS
        found = self._ask(f"SELECT least(visits, {many}) AS n, count(*) FROM picked GROUP BY n ORDER BY n")
        by_visits = {int(n): int(count) for n, count in found}
        last = max(by_visits, default=0)
        histogram = [("never offered", rows - int(offered)), ("0", int(offered) - int(distinct))]
        histogram += [(f"{n}+" if n == many else str(n), by_visits.get(n, 0)) for n in range(1, last + 1)]
        return PickLog(
            steps=int(steps), places=int(blocks) * size, picks=int(picks), distinct=int(distinct),
            offered_rows=int(offered), never_offered=rows - int(offered), visits=histogram,
        )  # fmt: skip

    def ranked(self, order: str, limit: int, uids: Sequence[str] | None = None) -> list[PickedRow]:
        """The first picked rows in an order (SQL), ties settled by uid; of those among `uids`, if they are given."""
        where = ""
        if uids is not None:
            self._connection.register("wanted", pa.table({"uid": pa.array(list(uids), pa.string())}))
            where = "WHERE uid IN (SELECT uid FROM wanted)"
        columns = "row, uid, visits, first_step, last_step, learnability, reference_nll"
        found = self._ask(f"SELECT {columns} FROM picked {where} ORDER BY {order}, uid LIMIT {int(limit)}")
        return [PickedRow(*line) for line in found]

    def noise_by_step(self, truth: Mapping[str, str], wrong: Sequence[str]) -> list[tuple[int, float]]:
        """The share of each step's picks that are wrong, of those whose truth is known."""
        kinds = pa.table({"uid": list(truth), "wrong": [kind in wrong for kind in truth.values()]})
        self._connection.register("truth", kinds)
        found = self._ask(
            "SELECT step, count(*) FILTER (wrong) / count(*) FROM picks JOIN truth USING (uid) "
            "GROUP BY step ORDER BY step"
        )
        return [(int(step), float(share)) for step, share in found]

    def quantiles(self, most: int) -> list[tuple[int, list[float]]]:
        """The quantiles of the candidates' scores, at `selections.QUANTILE_LEVELS`, of evenly spaced steps."""
        [[steps]] = self._ask("SELECT count(*) FROM superbatches")
        every = max(1, -(-int(steps) // most))
        found = self._ask(
            "SELECT step, score_quantiles FROM (SELECT *, row_number() OVER (ORDER BY step) AS n FROM superbatches) "
            f"WHERE (n - 1) % {every} = 0 ORDER BY step"
        )
        return [(int(step), list(quantiles)) for step, quantiles in found]

    def moments(self, count: int, pictures: int) -> list[Moment]:
        """Steps from the first to the last, and evenly spread rows of what each picked and passed over."""
        [[last]] = self._ask("SELECT max(step) FROM superbatches")
        if last is None:
            return []
        steps = sorted({round(last * place / max(count - 1, 1)) for place in range(count)})
        return [moment for step in steps for moment in self._moment(step, pictures)]

    def _moment(self, step: int, pictures: int) -> Iterator[Moment]:
        offered = self._ask(f"SELECT blocks FROM superbatches WHERE step = {step}")
        if not offered:
            return
        picked = [row for [row] in self._ask(f"SELECT row FROM picks WHERE step = {step} ORDER BY pick")]
        size, taken = self._block_size, set(picked)
        candidates = [
            row for block in offered[0][0] for row in range(block * size, min((block + 1) * size, self._rows))
        ]
        passed = [row for row in candidates if row not in taken]
        yield Moment(step, _spread(picked, pictures), _spread(passed, pictures))

    def _ask(self, query: str) -> list[tuple]:
        return self._connection.execute(query).fetchall()


@contextmanager
def open_log(directory: str, manifest: Manifest, corpus_rows: int) -> Iterator[Log]:
    """Reads a log of picks into a database of its own, which goes with the `with` block."""
    with policies.database() as connection:
        connection.execute("SET threads = 1")
        connection.register("all_picks", selections.scan_picks(directory))
        connection.execute(
            "CREATE TABLE picks AS SELECT step, pick, row, uid, learner_nll, reference_nll FROM all_picks"
        )
        connection.register("all_superbatches", selections.scan_superbatches(directory))
        connection.execute("CREATE TABLE superbatches AS SELECT * FROM all_superbatches")
        connection.execute(_PICKED)
        yield Log(connection, manifest.config["block_size"], corpus_rows)


def _spread(rows: list[int], count: int) -> list[int]:
    """As many rows as wanted, evenly spread over all."""
    if len(rows) <= count:
        return rows
    return [rows[place * len(rows) // count] for place in range(count)]
