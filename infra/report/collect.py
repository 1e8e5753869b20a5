"""Everything that a report says of one round, in plain values.

Enters: a round's directory. Leaves: a `Round`. What is missing is None or empty, so a round that is not finished is
reported as far as it got. Pictures are read one grid at a time and kept small; nothing grows with the corpus but the
sample, which has a bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from beam_pipelines import lineage
from infra.report import accounts, curves, downstream, drift, layout, picks, pictures, rejected, rows, truth
from infra.report.accounts import Accounts
from infra.report.curves import Points
from infra.report.downstream import Comparison
from infra.report.drift import Measure
from infra.report.layout import Layout
from infra.report.picks import Log, PickedRow, PickLog
from infra.report.pictures import Grid
from infra.report.rejected import Rejected
from infra.report.rows import Survey
from schemas import records
from schemas.errors import SuperbatchError

_MOMENTS = 4
_PICTURES_A_REASON = 8


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is looked at."""

    pictures: int
    """in a grid"""
    rows: int
    """of each dataset"""
    sources: bool = False
    """whether a raw source outside of the round is opened"""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is known of a round."""

    layout: Layout
    name: str
    accounts: Accounts
    log: PickLog | None
    truth: dict[str, str]
    surveys: dict[str, Survey]
    scores: np.ndarray | None
    """of the reference, of the pool's sampled rows"""
    kept: np.ndarray | None
    """which of the pool's sampled rows are curated"""
    measures: list[Measure]
    curves: dict[str, dict[str, Points]]
    noise: Points
    """share of wrong pairs in each step's picks"""
    quantiles: list[tuple[int, list[float]]]
    grids: list[Grid]
    moments: list[Grid]
    repeated: list[Grid]
    rejected: list[Rejected]
    downstream: list[Comparison]
    lineage: list[str]
    credit: list[str]

    @property
    def pool_noise(self) -> float | None:
        """The share of wrong pairs in the pool, where the truth is known."""
        return self.surveys["pool"].noise(truth.WRONG) if "pool" in self.surveys else None


def collect(directory: str, truth_file: str | None, limits: Limits) -> Round:
    """Reads a round.

    Raises:
      DataError: there is none.
      ConfigError: the truth's file is missing, or is none.
    """
    found = layout.find(directory)
    known = truth.read(truth_file, found.directory, found.output)
    surveys = rows.survey(found, limits.rows, known)
    inside = _members(found, surveys)
    scores = rows.reference_scores(found, surveys["pool"].seen) if "pool" in surveys else None
    read = _Pictures(found, known, surveys)
    grids = _grids(surveys, inside, scores, read, limits.pictures)
    counted, moments, repeated, noise, quantiles = None, [], [], [], []
    pool, selections = found.manifest("pool"), found.manifest("selections")
    if pool is not None and selections is not None:
        with picks.open_log(found.path("selections"), selections, pool.rows) as log:
            counted = log.count()
            if known:
                noise = curves.thin(log.noise_by_step(known, truth.WRONG))
            quantiles = log.quantiles(curves.POINTS)
            grids += _by_learnability(log, surveys, inside, read, limits.pictures)
            moments = _moments(log, read, limits.pictures)
            repeated = _repeated(log, read, limits.pictures)
    return Round(
        layout=found, name=_name(found), accounts=accounts.keep(found, counted), log=counted, truth=known,
        surveys=surveys, scores=scores, kept=inside.get("curated"), measures=_measures(surveys, inside, scores),
        curves=curves.read(found), noise=noise, quantiles=quantiles, grids=grids, moments=moments, repeated=repeated,
        rejected=rejected.collect(found, min(limits.pictures, _PICTURES_A_REASON), anywhere=limits.sources),
        downstream=downstream.compare(found), lineage=_lineage(found), credit=_credit(found),
    )  # fmt: skip


def _members(found: Layout, surveys: Mapping[str, Survey]) -> dict[str, np.ndarray]:
    """Which of the pool's sampled rows each of the other datasets has."""
    if "pool" not in surveys:
        return {}
    uids, members = surveys["pool"].uids, {}
    for name in surveys:
        if name != "pool" and (manifest := found.manifest(name)) is not None:
            members[name] = rows.members(found.path(name), manifest, uids)
    return members


def _measures(
    surveys: Mapping[str, Survey], inside: Mapping[str, np.ndarray], scores: np.ndarray | None
) -> list[Measure]:
    if "pool" not in surveys:
        return []
    by_dataset = {}
    if scores is not None:
        by_dataset = {name: scores[mask] for name, mask in {"pool": np.ones(len(scores), bool), **inside}.items()}
        by_dataset = {name: values[np.isfinite(values)] for name, values in by_dataset.items()}
    return drift.measures(surveys, by_dataset)


class _Pictures:
    """Reads examples for grids: of the pool, or of what is left of the round without it."""

    def __init__(self, found: Layout, known: Mapping[str, str], surveys: Mapping[str, Survey]):
        dataset = next(iter(surveys), "pool")
        self._read, self._truth = rows.reader_of(found, dataset), known
        self._several = dataset in surveys and len(surveys[dataset].sources) > 1

    def grid(self, title: str, says: str, wanted: Sequence[tuple[int, str]]) -> Grid:
        """A grid of rows, each with what is to be said of it."""
        examples = self._read([row for row, _ in wanted])
        shown = [
            pictures.of_example(example, note=note or self._origin(example), truth=self._truth.get(example.uid, ""))
            for example, (_, note) in zip(examples, wanted, strict=False)
        ]
        return Grid(title=title, says=says, pictures=shown)

    def _origin(self, example: records.Example) -> str:
        return rows.origin(example) if self._several else ""


def _grids(
    surveys: Mapping[str, Survey], inside: Mapping[str, np.ndarray], scores: np.ndarray | None, read: _Pictures, n: int
) -> list[Grid]:
    """Kept and dropped rows of the pool: as they come, and by the reference's score."""
    if "curated" not in inside:
        says = {"pool": "Nothing was curated of it yet.", "curated": "The pool that it was taken from is not here."}
        return [
            read.grid(f"{name.capitalize()}, at random", said, [(row, "") for row in range(min(n, surveys[name].seen))])
            for name, said in says.items()
            if name in surveys
        ][:1]
    kept, dropped = np.flatnonzero(inside["curated"]), np.flatnonzero(~inside["curated"])
    grids = [
        read.grid("Kept, at random", "Whatever came first in the shuffled pool.", [(int(r), "") for r in kept[:n]]),
        read.grid("Dropped, at random", "The same of what was not kept.", [(int(r), "") for r in dropped[:n]]),
    ]
    if scores is None:
        return grids
    for title in ("highest", "lowest"):
        for side, places in (("Kept", kept), ("Dropped", dropped)):
            scored = places[np.isfinite(scores[places])]
            order = scored[np.argsort(scores[scored], kind="stable")]
            noted = [
                (int(row), f"cosine {scores[row]:.2f}".replace("-", "−"))
                for row in (order[::-1] if title == "highest" else order)[:n]
            ]
            says = f"Picture and caption that the reference finds {'most' if title == 'highest' else 'least'} alike."
            grids.append(read.grid(f"{side}, {title} reference score", says, noted))
    return grids


def _by_learnability(
    log: Log, surveys: Mapping[str, Survey], inside: Mapping[str, np.ndarray], read: _Pictures, n: int
) -> list[Grid]:
    """Picked rows by learnability, kept and not; of the pool's sample."""
    if "curated" not in inside:
        return []
    uids, grids = np.array(surveys["pool"].uids), []
    sides = (("Kept", inside["curated"]), ("Picked and dropped", ~inside["curated"]))
    for title, order in (("highest", "learnability DESC"), ("lowest", "learnability")):
        for side, mask in sides:
            noted = [
                (p.row, f"{pictures.signed(p.learnability)} nats") for p in log.ranked(order, n, uids[mask].tolist())
            ]
            left = "much was left to learn" if title == "highest" else "the learner was ahead, or nothing was left"
            says = f"The learner's loss less the reference's, mean over a pair's picks: {left}."
            grids.append(read.grid(f"{side}, {title} learnability", says, noted))
    return grids


def _moments(log: Log, read: _Pictures, n: int) -> list[Grid]:
    grids = []
    for moment in log.moments(_MOMENTS, max(n // 2, 1)):
        for title, chosen in (("picked", moment.picked), ("passed over", moment.passed)):
            says = f"A few of what step {moment.step:,} {title}."
            grids.append(read.grid(f"Step {moment.step:,}: {title}", says, [(row, "") for row in chosen]))
    return grids


def _repeated(log: Log, read: _Pictures, n: int) -> list[Grid]:
    def noted(picked: PickedRow) -> tuple[int, str]:
        return (
            picked.row,
            f"{pictures.times(picked.visits, 'pick')}, steps {picked.first_step:,} to {picked.last_step:,}",
        )

    often = log.ranked("visits DESC, learnability DESC", n)
    return [read.grid("Picked most often", "With the steps between which they were picked.", list(map(noted, often)))]


def _name(found: Layout) -> str:
    for role, suffix in (("curated", "_curated"), ("pool", "_pool"), ("seed", "_seed")):
        if (manifest := found.manifest(role)) is not None:
            name = pictures.shown(manifest.name.removesuffix(suffix))
            return f"{name}, round {found.number}" if found.number > 1 else name
    return found.directory.rpartition("/")[2]


def _lineage(found: Layout) -> list[str]:
    for role in ("curated", "selections", "embeddings", "pool"):
        if found.manifest(role) is not None:
            try:
                return lineage.run(lineage.LineageConfig(path=found.path(role)))
            except SuperbatchError:  # a parent that was altered; it stands among the findings
                continue
    return []


def _credit(found: Layout) -> list[str]:
    manifest = found.manifest("curated")
    said = [manifest.config.get(name) for name in ("attribution", "license", "homepage")] if manifest else []
    return [pictures.shown(str(words), pictures.LONGEST_LINE) for words in said if words]
