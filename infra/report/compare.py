"""Two rounds side by side: their counts, their curves in one chart, and which rows both kept.

Enters: two rounds. Leaves: a page. Curated rows are the same where their uids are: those hash picture and text, so
rounds over different pools can be compared as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from beam_pipelines import policies
from infra.report import charts, drift, page, pictures, rows, story
from infra.report.charts import Figure, Series
from infra.report.collect import Round
from infra.report.curves import Points
from infra.report.pictures import Grid
from infra.report.story import Headline

A, B = "A", "B"
_STYLES = {A: "curated", B: "uniform"}


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The curated rows of two rounds, by uid."""

    both: int
    only: dict[str, int]

    @property
    def jaccard(self) -> float:
        """Common rows over all rows."""
        every = self.both + sum(self.only.values())
        return self.both / every if every else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a page on two rounds shows."""

    rounds: dict[str, Round]
    overlap: Overlap | None
    grids: list[Grid]


def compare(one: Round, other: Round, *, most: int) -> Comparison:
    """Compares two rounds.

    Args:
      one: round A.
      other: round B.
      most: pictures in a grid.
    """
    rounds = {A: one, B: other}
    if any(found.layout.manifest("curated") is None for found in rounds.values()):
        return Comparison(rounds=rounds, overlap=None, grids=[])
    with policies.database() as connection:
        for name, found in rounds.items():
            connection.register("uids", _uids(found))
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM uids")
        both = _count(connection, A, f"SEMI JOIN {B}")
        only = {name: _count(connection, name, f"ANTI JOIN {other}") for name, other in ((A, B), (B, A))}
        sides = (
            (A, "Kept by both", "Rows of either curated set.", f"SEMI JOIN {B}"),
            (A, "Only in A", "Kept by A, and not by B.", f"ANTI JOIN {B}"),
            (B, "Only in B", "Kept by B, and not by A.", f"ANTI JOIN {A}"),
        )
        grids = [
            _grid(rounds[name], title, says, _first(connection, name, join, most)) for name, title, says, join in sides
        ]
    return Comparison(rounds=rounds, overlap=Overlap(both=both, only=only), grids=grids)


def render(found: Comparison) -> str:
    """The page of two rounds."""
    drifts = {name: page.drift_table(one) for name, one in found.rounds.items()}
    return page.environment().get_template("comparison.html").render(
        found=found, headlines=_headlines(found), sentences=_sentences(found), curves=_curves(found),
        distributions=_distributions(found), drifts=drifts, stages=_stages(found),
        lineages={name: page.tree(one.lineage) for name, one in found.rounds.items()},
        kinds={name: page.kinds_table(one) for name, one in found.rounds.items()},
    )  # fmt: skip


def _uids(found: Round) -> pa.RecordBatchReader:
    """Streams the uids of a curated set, each with its row."""
    schema = pa.schema([("row", pa.int64()), ("uid", pa.string())])
    manifest = found.layout.manifest("curated")
    batches = rows.all_uids(found.layout.path("curated"), manifest) if manifest else iter(())

    def numbered() -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in batches:
            yield pa.record_batch([list(range(first, first + len(batch))), batch], schema=schema)
            first += len(batch)

    return pa.RecordBatchReader.from_batches(schema, numbered())


def _count(connection: duckdb.DuckDBPyConnection, name: str, join: str) -> int:
    [[count]] = connection.execute(f"SELECT count(*) FROM {name} {join} USING (uid)").fetchall()
    return count


def _first(connection: duckdb.DuckDBPyConnection, name: str, join: str, most: int) -> list[int]:
    """The first rows, which are a random sample, that the other set has as well, or has not."""
    query = f"SELECT row FROM {name} {join} USING (uid) ORDER BY row LIMIT {most}"
    return [row for [row] in connection.execute(query).fetchall()]


def _grid(found: Round, title: str, says: str, places: list[int]) -> Grid:
    shown = []
    for example in rows.reader_of(found.layout, "curated")(places):
        picked = example.selection
        note = f"{pictures.times(picked.visits, 'pick')}, {pictures.signed(picked.learnability)} nats" if picked else ""
        shown.append(pictures.of_example(example, note=note, truth=found.truth.get(example.uid, "")))
    return Grid(title=title, says=says, pictures=shown)


def _headlines(found: Comparison) -> list[tuple[str, list[Headline]]]:
    return [(name, story.headlines(one)) for name, one in found.rounds.items()]


def _sentences(found: Comparison) -> list[str]:
    said, overlap = [], found.overlap
    if overlap is not None:
        sizes = {name: overlap.both + rest for name, rest in overlap.only.items()}
        said.append(
            f"Both rounds kept {overlap.both:,} of the same rows: {story.percent(overlap.both, sizes[A])} of A's "
            f"{sizes[A]:,}, {story.percent(overlap.both, sizes[B])} of B's {sizes[B]:,}, and {overlap.jaccard:.1%} of "
            "all that either kept."
        )
        pools = [one.layout.manifest("pool") for one in found.rounds.values()]
        if all(pools) and len({pool.fingerprint for pool in pools if pool}) == 1 and pools[0]:
            chance = sizes[A] * sizes[B] / max(pools[0].rows, 1)
            said.append(f"They chose from the same pool, where chance alone would give {chance:,.0f} common rows.")
        else:
            said.append("They chose from different pools.")
    return said


def _stages(found: Comparison) -> list[tuple[str, list]]:
    """The lines of both rounds for every stage that either has."""
    lines = {name: {line.stage: line for line in one.accounts.stages} for name, one in found.rounds.items()}
    titles = list(dict.fromkeys([*lines[A], *lines[B]]))
    return [(title, [lines[A].get(title), lines[B].get(title)]) for title in titles]


def _curves(found: Comparison) -> list[Figure]:
    figures = []
    for name, title, metric, unit in (
        ("reference", "Loss of the reference", "loss", "nats"),
        ("distill", "Loss of the learner", "loss", "nats"),
        ("distill", "Learnability of what was picked", "learnability_kept", "learner − reference, nats"),
    ):
        figures += _overlaid(
            title, {side: one.curves.get(name, {}).get(metric) for side, one in found.rounds.items()}, unit
        )
    noise = {side: one.noise or None for side, one in found.rounds.items()}
    return figures + _overlaid("Wrong pairs among each step's picks", noise, "share of picks", percent=True)


def _overlaid(title: str, points: dict[str, Points | None], unit: str, percent: bool = False) -> list[Figure]:
    series = [Series(f"round {side}", _STYLES[side], found) for side, found in points.items() if found]
    if not series:
        return []
    ends = " and ".join(f"{one.points[-1][1]:{'.1%' if percent else '.3g'}} in {one.name}" for one in series)
    return [charts.lines(title, f"It ends at {ends}.", series, x="step", y=unit, percent=percent)]


def _distributions(found: Comparison) -> list[Figure]:
    """The two curated sets in one chart for each measure, and how far apart they are."""
    surveys = {_STYLES[side]: one.surveys["curated"] for side, one in found.rounds.items() if "curated" in one.surveys}
    if len(surveys) < len(found.rounds):
        return []
    titles = {_STYLES[side]: f"curated by {side}" for side in found.rounds}
    return [
        charts.distribution(measure, f"The two curated sets are {measure.drift(_STYLES[B]):.3f} bits apart.", titles)
        for measure in drift.measures(surveys, {})
        if measure.varies
    ]
