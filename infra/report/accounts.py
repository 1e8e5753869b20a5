"""The books of a round: what every stage read and kept, how rows became fewer on the way, and whether it adds up.

Enters: the counts of the manifests, and what the log of picks says. Leaves: a line for each stage, the steps by which
the rows became fewer, and every equation that does not hold, in words. Nothing is put right here: what does not add up
is shown as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.report.layout import CONTROLS, Artifact, Layout
from infra.report.picks import PickLog
from schemas.rejections import Reason


@dataclass(frozen=True, kw_only=True)
class StageLine:
    """One stage. Its numbers are None where it is missing or its manifest has none."""

    stage: str
    state: str
    """complete, missing, or altered"""
    read: int | None = None
    kept: int | None = None
    duplicates: int = 0
    rejected: tuple[tuple[str, int], ...] = ()
    seconds: float | None = None
    fingerprint: str = ""
    note: str = ""
    """what the numbers count, where it is not rows"""

    @property
    def left_out(self) -> list[tuple[str, int]]:
        """What was read and not kept, by its cause."""
        word = "duplicate" if self.duplicates == 1 else "duplicates"
        return [*([(word, self.duplicates)] if self.duplicates else []), *self.rejected]


@dataclass(frozen=True)
class Link:
    """A step on the way from raw rows to the curated set: how many rows there are, or how many go."""

    says: str
    rows: int
    stays: bool


@dataclass(frozen=True)
class Accounts:
    """The books."""

    stages: list[StageLine]
    chain: list[Link]
    findings: list[str]


def keep(layout: Layout, log: PickLog | None) -> Accounts:
    """Draws up the books of a round, and checks them."""
    lines = [_line(artifact) for artifact in layout.artifacts.values()]
    return Accounts(lines, list(_chain(layout, log)), list(_findings(layout, lines, log)))


def _line(artifact: Artifact) -> StageLine:
    note = {"model": "examples learned from", "selections": "candidates offered, and picks"}
    manifest, stored = artifact.manifest, artifact.stored or {}
    if artifact.figures:
        return StageLine(stage=artifact.stage, state="complete", seconds=artifact.seconds, note="figures")
    if manifest is None and not artifact.problem:
        return StageLine(stage=artifact.stage, state="missing", seconds=artifact.seconds)
    rejected = stored.get("rejected")
    return StageLine(
        stage=artifact.stage,
        state="complete" if manifest else "altered",
        read=_whole(stored.get("read")),
        kept=_whole(stored.get("kept")),
        duplicates=_whole(stored.get("duplicates")) or 0,
        rejected=tuple(sorted((str(k), _whole(v) or 0) for k, v in rejected.items()))
        if isinstance(rejected, dict)
        else (),
        seconds=artifact.seconds,
        fingerprint=manifest.fingerprint[:12] if manifest else "",
        note=note.get(manifest.kind, "") if manifest else "",
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _chain(layout: Layout, log: PickLog | None) -> Iterator[Link]:
    pool, curated = layout.manifest("pool"), layout.manifest("curated")
    if pool is None:
        return
    yield Link("raw rows read", pool.counts.read, stays=True)
    if pool.counts.duplicates:
        yield Link("exact duplicates", pool.counts.duplicates, stays=False)
    if pool.counts.rejected:
        yield Link("rejected", sum(pool.counts.rejected.values()), stays=False)
    yield Link("rows of the pool", pool.rows, stays=True)
    if log is None:
        return
    if log.never_offered:
        yield Link("never offered", log.never_offered, stays=False)
    yield Link("offered to the learner", log.offered_rows, stays=True)
    yield Link("offered, and never picked", log.offered_rows - log.distinct, stays=False)
    yield Link("picked at least once", log.distinct, stays=True)
    if curated is None:
        return
    for reason, rows in sorted(curated.counts.rejected.items()):
        if reason != Reason.NOT_PICKED:
            yield Link(reason.replace("_", " "), rows, stays=False)
    yield Link("curated", curated.rows, stays=True)


def _findings(layout: Layout, lines: list[StageLine], log: PickLog | None) -> Iterator[str]:
    for artifact in layout.artifacts.values():
        if artifact.problem:
            yield artifact.problem
    for line in lines:
        if line.read is not None and line.kept is not None:
            parts = line.kept + sum(rows for _, rows in line.left_out)
            yield from _unequal(f"{line.stage}: rows read", line.read, "kept and left out", parts)
    yield from _strangers(layout)
    pool = layout.manifest("pool")
    if pool is None:
        return
    yield from _unequal("ingest pool: rows kept", pool.counts.kept, "rows in its shards", pool.rows)
    for role in ("embeddings", "curated", *CONTROLS):
        manifest = layout.manifest(role)
        if manifest is None:
            continue
        stage = layout.artifacts[role].stage
        yield from _unequal(f"{stage}: rows read", manifest.counts.read, "rows of the pool", pool.rows)
        if role != "embeddings":  # there, what could not be embedded has a row too
            yield from _unequal(f"{stage}: rows kept", manifest.counts.kept, "rows in its shards", manifest.rows)
    yield from _of_the_log(layout, log, pool.rows)


def _strangers(layout: Layout) -> Iterator[str]:
    """Artifacts that were made of something else than what lies here."""
    for role, artifact in layout.artifacts.items():
        if artifact.manifest is None:
            continue
        for parent in artifact.manifest.parents:
            beside = layout.manifest(_made_of(role, parent.role, layout.number))
            if beside is not None and beside.fingerprint != parent.fingerprint:
                yield (
                    f"{artifact.stage} was made of {parent.role} {parent.fingerprint[:12]}, and here lies "
                    f"{beside.fingerprint[:12]}"
                )


def _made_of(role: str, parent: str, number: int) -> str:
    """What an artifact's parent is called here; empty where it need not lie here."""
    if parent in ("embeddings", "selections"):
        return parent
    if parent != "corpus":
        return ""
    if role == "reference":  # that of a later round was trained on the curated set of the round before
        return "seed" if number == 1 else ""
    if role.startswith("downstream-"):
        return "curated" if role.startswith("downstream-curated-") else "uniform"
    return "pool"


def _of_the_log(layout: Layout, log: PickLog | None, pool_rows: int) -> Iterator[str]:
    selections, curated = layout.manifest("selections"), layout.manifest("curated")
    if log is None or selections is None:
        return
    yield from _unequal("distill: picks counted", selections.counts.kept, "picks in its log", log.picks)
    yield from _unequal("distill: candidates counted", selections.counts.read, "places offered in its log", log.places)
    if log.distinct > log.offered_rows:
        yield f"distill: {log.distinct:,} rows were picked, and only {log.offered_rows:,} were offered"
    if curated is None:
        return
    not_picked = curated.counts.rejected.get(Reason.NOT_PICKED, 0)
    yield from _unequal("curate: rows not picked", not_picked, "pool less rows in the log", pool_rows - log.distinct)
    rest = curated.counts.read - not_picked
    yield from _unequal("curate: rows kept or passed over", rest, "rows in the log", log.distinct)


def _unequal(one: str, left: int, other: str, right: int) -> Iterator[str]:
    if left != right:
        yield f"{one} are {left:,}, {other} {right:,}: {abs(left - right):,} rows are not accounted for"
