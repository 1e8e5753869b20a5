"""The durable log of a distill run: collects the picks of every step and writes a part file when its range is full.

Parts cover fixed step ranges, whatever the checkpoints do. A resumed run makes the parts after its checkpoint again;
being the same, they leave the committed files untouched.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import manifest as manifests
from schemas import selections, storage
from schemas.errors import IntegrityError
from trainer.step import Scored

_SCHEMAS = {"picks": selections.PICKS, "superbatches": selections.SUPERBATCHES}


@dataclass
class SelectionsLog:
    """Writes `selections/` of a workdir; `total_steps` closes the last part."""

    directory: str
    steps_per_part: int
    total_steps: int
    _open: dict[str, list[pa.Table]] = field(default_factory=lambda: {name: [] for name in _SCHEMAS})

    def add(self, step: int, rows: np.ndarray, blocks: np.ndarray, scored: Scored) -> None:
        """Logs one step, and commits the part that it completes.

        Args:
          rows: the global rows [B] of the step's candidates.
          blocks: the ids of the blocks they came in.
        """
        picks = scored.picks
        index = np.asarray(picks.index)
        self._open["picks"].append(
            pa.table(
                {
                    "step": np.full(len(index), step, np.int64),
                    "pick": np.arange(len(index), dtype=np.int32),
                    "chunk": np.asarray(picks.chunk),
                    "row": rows[index],
                    "uid": [uid.tobytes().hex() for uid in np.asarray(scored.uid)],
                    "learner_nll": np.asarray(picks.learner_nll, np.float32),
                    "reference_nll": np.asarray(picks.reference_nll, np.float32),
                    "conditional": np.asarray(picks.conditional, np.float32),
                },
                schema=selections.PICKS,
            )
        )
        self._open["superbatches"].append(
            pa.table(
                {
                    "step": [step],
                    "blocks": [blocks.tolist()],
                    "score_quantiles": [np.asarray(scored.score_quantiles, np.float32).tolist()],
                },
                schema=selections.SUPERBATCHES,
            )
        )
        first = step - step % self.steps_per_part
        last = min(first + self.steps_per_part, self.total_steps) - 1
        if step == last:
            self._commit(first, last)

    def open_rows(self) -> dict[str, bytes]:
        """Returns the rows of the part that is still open, for a checkpoint."""
        return {name: _to_stream(_combine(name, parts)) for name, parts in self._open.items()}

    def restore(self, rows: dict[str, bytes]) -> None:
        """Takes up the open part of a checkpoint."""
        self._open = {name: [pa.ipc.open_stream(stream).read_all()] for name, stream in rows.items()}

    def finish(self, config, name: str, version: str, parents: list[manifests.Parent], offered: int):
        """Completes the selections: counts the rows of every part and writes their manifest.

        Raises:
          IntegrityError: a part is missing, or holds another number of picks than steps times sub-batch.
        """
        described: dict[str, list[manifests.Shard]] = {}
        for table in _SCHEMAS:
            described[table] = []
            for first in range(0, self.total_steps, self.steps_per_part):
                last = min(first + self.steps_per_part, self.total_steps) - 1
                described[table].append(self._describe(selections.part_name(table, first, last)))
        kept = sum(shard.rows for shard in described["picks"])
        if kept != config.batch_size * self.total_steps:
            raise IntegrityError(
                f"{self.directory} logs {kept} picks and {self.total_steps} steps of {config.batch_size} were made"
            )
        rejected = {manifests.Reason.NOT_PICKED: offered - kept}
        return manifests.write(
            self.directory,
            manifests.make(
                kind="selections", name=name, version=version, config=config, parents=parents,
                counts=manifests.Counts(read=offered, kept=kept, rejected=rejected),
                shards=described["picks"] + described["superbatches"], files=[],
            ),
        )  # fmt: skip

    def _commit(self, first: int, last: int) -> None:
        for name, parts in self._open.items():
            path = storage.as_path(self.directory) / selections.part_name(name, first, last)
            rows = _combine(name, parts)
            if not selections.write_part(path, rows) and not _holds(path, rows):
                raise IntegrityError(
                    f"{path} was written by an earlier attempt, and this one made other picks: machine, libraries or "
                    "--scoring_batch changed in between. Delete the workdir and distill again"
                )
            parts.clear()

    def _describe(self, name: str) -> manifests.Shard:
        path = storage.as_path(self.directory) / name
        if not path.exists():
            raise IntegrityError(f"{path} is missing: a part of the selections was deleted while the run went on")
        with path.open("rb") as file:
            rows = pq.read_metadata(file).num_rows
        size, digest = storage.hash_file(path)
        return manifests.Shard(name=name, rows=rows, bytes=size, sha256=digest)


def _holds(path: storage.epath.Path, rows: pa.Table) -> bool:
    with path.open("rb") as file:
        return pq.read_table(file).equals(rows)


def _combine(name: str, parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([_SCHEMAS[name].empty_table(), *parts]).combine_chunks()


def _to_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
