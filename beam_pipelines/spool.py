"""Spools: where an ingest's good pairs wait on disk while only their keys are shuffled.

One task of a source leaves three files in the job's working folder: its rows (an ArrayRecord shard), its rejections,
and, committed last, its keys. A later attempt takes up a spool whose keys are there.
"""

import itertools
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
from schemas.errors import IntegrityError
from schemas.identity import keyed_order

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
    row: int  # in the source's order
    spool: str
    place: int  # in the spool's order
    rows: int  # of the whole spool


@dataclass(frozen=True)
class Spools:
    """The spools of one job, in its working folder. A spool's name says all that decides what is in it.

    Its rows stand in the corpus's order, so that those of a shard are one range of every spool: on an object store,
    one request instead of one for each row.
    """

    folder: storage.epath.Path
    seed: int  # of the corpus's order

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
        """Yields the key of every row of a spool, in its order.

        Raises:
          IntegrityError: the file of its keys is damaged.
        """
        path = self._keys(spooled.spool)
        try:
            table = pq.read_table(pa.BufferReader(storage.read_bytes(path)))
            columns = [table[name].to_pylist() for name in ("uid", "text_id", "row")]
        except (pa.ArrowException, KeyError) as error:
            raise self._damaged(f"{path} is damaged ({error})") from None
        for place, (uid, text_id, row) in enumerate(zip(*columns, strict=True)):
            yield Key(uid, text_id, spooled.task, row, spooled.spool, place, spooled.kept)

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

        with storage.temporary_file(self._rows(name)) as unordered:
            shards.write_file(unordered, good_rows())
            uids = [uid for uid, _ in identities]
            order = sorted(range(len(uids)), key=lambda row: (keyed_order(uids[row], self.seed), uids[row], row))
            with shards.ShardReader(unordered, len(uids)) as reader:
                shards.write_shard(self._rows(name), _in_order(reader, order))
        if rejected:
            rejections.write(self.rejections(name), rejected)
        keys = [(*identities[row], row) for row in order]
        tally = Spooled(task, read, len(keys), dict(Counter(str(r.reason) for r in rejected)), name)
        self._write_keys(tally, keys)
        return tally

    def read(self, keys: Sequence[Key]) -> Iterator[bytes]:
        """Yields spooled rows in the order asked. They are gathered in a local file first, spool by spool."""
        by_spool = sorted(range(len(keys)), key=lambda index: (keys[index].spool, keys[index].place))
        with storage.temporary_file(self.folder / "gathered") as gathered:
            shards.write_file(gathered, self._gather([keys[index] for index in by_spool]))
            places = {index: place for place, index in enumerate(by_spool)}
            with shards.ShardReader(gathered, len(keys)) as reader:
                yield from _in_order(reader, [places[index] for index in range(len(keys))])

    def rejections(self, name: str) -> storage.epath.Path:
        """The file of a spool's rejections; there is none if nothing was rejected."""
        return self.folder / f"rejections-{name}.parquet"

    def _gather(self, keys: Sequence[Key]) -> Iterator[bytes]:
        """Yields rows of keys that are sorted by spool and place, with one spool open at a time."""
        for name, group in itertools.groupby(keys, key=lambda key: key.spool):
            wanted = list(group)
            try:
                with shards.ShardReader(self._rows(name), wanted[0].rows) as reader:
                    # Between them there may be duplicates, which are not wanted.
                    for _, near in itertools.groupby(wanted, key=lambda key: key.place // _READ_ROWS):
                        places = [key.place for key in near]
                        rows = reader.read_range(places[0], places[-1] + 1)
                        yield from (rows[place - places[0]] for place in places)
            except IntegrityError as error:
                raise self._damaged(str(error)) from None

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(f"{what}. Delete {self.folder} and run the job again: finished shards are kept")

    def _rows(self, name: str) -> storage.epath.Path:
        return self.folder / f"spool-{name}"

    def _keys(self, name: str) -> storage.epath.Path:
        return self.folder / f"keys-{name}.parquet"

    def _write_keys(self, tally: Spooled, keys: list[tuple[str, str, int]]) -> None:
        counts = json.dumps({"read": tally.read, "rejected": tally.rejected}).encode()
        types = {"uid": pa.string(), "text_id": pa.string(), "row": pa.int64()}
        columns = dict(zip(types, zip(*keys, strict=True), strict=True)) if keys else dict.fromkeys(types, ())
        table = pa.table(columns, schema=pa.schema(types, metadata={"tally": counts}))
        # They go last: their presence says that rows and rejections are complete.
        with storage.temporary_file(self._keys(tally.spool)) as temporary:
            pq.write_table(table, temporary)
            storage.commit(temporary, self._keys(tally.spool))


def _in_order(reader: shards.ShardReader, order: Sequence[int]) -> Iterator[bytes]:
    for first in range(0, len(order), _READ_ROWS):
        yield from reader.read(order[first : first + _READ_ROWS])
