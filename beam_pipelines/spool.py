"""Spools: where an ingest's good pairs wait on disk while only their keys are shuffled.

One task of a source leaves three files in the job's working folder: its rows (an ArrayRecord shard), its rejections,
and, committed last, its keys. A later attempt takes up a spool whose keys are there.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines import progress
from beam_pipelines.sources import RawPair
from beam_pipelines.texts import text_identity
from schemas import records, rejections, shards, storage

_READ_ROWS = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spooled:
    """What one task left behind: rows of its spool, and the tally of what it read."""

    task: int
    read: int
    kept: int
    rejected: dict[str, int]
    spool: str


@dataclass(frozen=True)
class Key:
    """A spooled row: all that is shuffled of it."""

    uid: str
    text_id: str  # of its text alone, to find texts that come again and again
    task: int
    spool: str
    row: int


@dataclass(frozen=True)
class Spools:
    """The spools of one job, in its working folder. A spool's name says all that decides what is in it."""

    folder: storage.epath.Path

    def take_up(self, name: str, task: int) -> Spooled | None:
        """Returns the tally of a spool that an earlier attempt committed, None if there is none."""
        path = self._keys(name)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file:
                found = pq.read_metadata(file)
            counts = json.loads(found.metadata[b"tally"])
        except (pa.ArrowException, KeyError, ValueError) as error:
            log.warning("%s is damaged and is made anew: %s", path, error)
            path.unlink()
            return None
        return Spooled(task, counts["read"], found.num_rows, counts["rejected"], name)

    def keys(self, spooled: Spooled) -> Iterator[Key]:
        """Yields the key of every row of a spool, in order."""
        with self._keys(spooled.spool).open("rb") as file:
            table = pq.read_table(file)
        identities = zip(table["uid"].to_pylist(), table["text_id"].to_pylist(), strict=True)
        for row, (uid, text_id) in enumerate(identities):
            yield Key(uid, text_id, spooled.task, spooled.spool, row)

    def write(
        self,
        name: str,
        task: int,
        pairs: Iterable[RawPair],
        normalise: Callable[[RawPair], records.Example],
        tracked: progress.Progress,
    ) -> Spooled:
        """Spools what `normalise` makes of a task's pairs; what it rejects goes beside."""
        rejected: list[rejections.Rejection] = []
        identities: list[tuple[str, str]] = []
        read = 0

        def good_rows() -> Iterator[bytes]:
            nonlocal read
            for raw in pairs:
                read += 1
                problem = None
                try:
                    example = normalise(raw)
                    identities.append((example.uid, text_identity(example.text)))
                    yield records.encode_example(example)
                except rejections.RejectedError as error:
                    problem = rejections.Rejection(
                        source=raw.source, stage=tracked.stage, reason=error.reason, detail=error.detail
                    )
                    rejected.append(problem)
                if line := tracked.count(1, [problem.reason] if problem else []):
                    log.info("%s; now %s", line, raw.source)

        shards.write_shard(self._rows(name), good_rows())
        if rejected:
            rejections.write(self.rejections(name), rejected)
        tally = Spooled(task, read, len(identities), dict(Counter(str(r.reason) for r in rejected)), name)
        self._write_keys(tally, identities)
        return tally

    def read(self, keys: Sequence[Key]) -> Iterator[bytes]:
        """Yields spooled rows in the order asked, by random access."""
        readers: dict[str, shards.ShardReader] = {}
        try:
            for name in sorted({key.spool for key in keys}):
                with self._keys(name).open("rb") as file:
                    rows = pq.read_metadata(file).num_rows
                readers[name] = shards.ShardReader(self._rows(name), rows)
            for first in range(0, len(keys), _READ_ROWS):
                piece = keys[first : first + _READ_ROWS]
                places: dict[str, list[int]] = {}
                for place, key in enumerate(piece):
                    places.setdefault(key.spool, []).append(place)
                found: dict[int, bytes] = {}
                for name, wanted in places.items():
                    rows_read = readers[name].read([piece[place].row for place in wanted])
                    found |= dict(zip(wanted, rows_read, strict=True))
                yield from (found[place] for place in range(len(piece)))
        finally:
            for reader in readers.values():
                reader.close()

    def rejections(self, name: str) -> storage.epath.Path:
        """The file of a spool's rejections; there is none if nothing was rejected."""
        return self.folder / f"rejections-{name}.parquet"

    def _rows(self, name: str) -> storage.epath.Path:
        return self.folder / f"spool-{name}"

    def _keys(self, name: str) -> storage.epath.Path:
        return self.folder / f"keys-{name}.parquet"

    def _write_keys(self, tally: Spooled, identities: list[tuple[str, str]]) -> None:
        counts = json.dumps({"read": tally.read, "rejected": tally.rejected}).encode()
        columns = {"uid": [uid for uid, _ in identities], "text_id": [text for _, text in identities]}
        table = pa.table(columns, schema=pa.schema(dict.fromkeys(columns, pa.string()), metadata={"tally": counts}))
        # They go last: their presence says that rows and rejections are complete.
        with storage.temporary_file(self._keys(tally.spool)) as temporary:
            pq.write_table(table, temporary)
            storage.commit(temporary, self._keys(tally.spool))
