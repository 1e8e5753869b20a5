"""`superbatch curate`: what the learner picked becomes a dataset; what it is compared with, two more.

    picks ─ aggregate, rank, cut at the budget ─► plans (which corpus rows go into which shard)
    plans ─ random access to the corpus ─► shards ─► metadata, manifest

The unit of work is an output shard. A curated dataset is a corpus again, with `selection/*` features added. With
`--control`, two plain corpora of the same size are written from the same pool: a uniform sample, and the rows that the
reference alone scores best.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_pipelines import job, policies, progress
from beam_pipelines.completion import Gather, ShardResult, complete_dataset
from schemas import job_config, records, rejections, selections, shards, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.identity import keyed_order, shard_of
from schemas.job_config import content

_READ_ROWS = 256
CONTROLS = ("uniform", "top_reference")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Turn the selections of a distill run into a curated dataset of a given size."""

    corpus: str
    """directory of the corpus that was distilled"""
    selections: str
    """workdir of the distill run"""
    output: str
    """directory of the curated dataset to make"""
    budget: float = content()
    """rows to keep; a number below 1 is a fraction of the corpus"""
    name: str = "curated"
    """name of the dataset; letters, digits and _"""
    version: str = "1.0.0"
    """version recorded in the manifest"""
    policy: policies.Policy = content("visits")
    """visits: most often picked per offer; learnability: highest mean; recent: picked last"""
    control: str | None = None
    """also write uniform/ and top_reference/ samples of the same size below this directory"""
    embeddings: str | None = None
    """the reference's embeddings, for top_reference/; the distill run's own if not given"""
    shards: int = content(8)
    """number of shards"""
    seed: int = content(0)
    """key of the shuffle and of the uniform control"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget) and self.budget > 0) or (self.budget >= 1 and self.budget % 1):
            raise ConfigError(f"budget is {self.budget}; it must be a number of rows, or a fraction between 0 and 1")
        if self.shards < 1:
            raise ConfigError(f"shards is {self.shards}; it must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must lie in [0, 2³²)")
        manifests.check_version(self.version)
        manifests.check_dataset_name("name", self.name)

    def rows_of(self, corpus_rows: int) -> int:
        """The budget in rows."""
        return int(self.budget) if self.budget >= 1 else max(1, round(self.budget * corpus_rows))


@dataclass(frozen=True, kw_only=True)
class _ControlConfig:
    """What a control sample's manifest records."""

    name: str
    control: Literal["uniform", "top_reference"] = content()
    rows: int = content()
    shards: int = content()
    seed: int = content()


@dataclass(frozen=True, kw_only=True)
class Output:
    """One dataset to write: where, with which manifest, and the rows it takes of the corpus."""

    label: str
    directory: str
    name: str
    version: str
    config: CurateConfig | _ControlConfig
    parents: list[manifests.Parent]
    dataset: manifests.DatasetInfo
    corpus_rows: int
    picked_rows: int
    rows: int
    shards: int


@dataclass(frozen=True)
class ShardPlan:
    """The rows of one output shard in their order, and for curated ones their selection fields."""

    index: int
    rows: list[int]
    uids: list[str]
    selected: list[records.Selection] | None


def run(config: CurateConfig, beam_flags: list[str]) -> manifests.Manifest | None:
    """Runs the job; returns the curated dataset's manifest, or None if a remote runner goes on with it."""
    options = job.parse_options(beam_flags, config)
    corpus = manifests.read(config.corpus, kind="corpus")
    log_directory = selections.resolve(config.selections)
    logged = manifests.read(log_directory, kind="selections")
    if logged.parent("corpus").fingerprint != corpus.fingerprint:
        raise IntegrityError(
            f"{log_directory} picked from corpus {logged.parent('corpus').fingerprint}, and {config.corpus} is corpus "
            f"{corpus.fingerprint}: name the corpus that was distilled"
        )
    parents = [
        manifests.as_parent("corpus", config.corpus, corpus),
        manifests.as_parent("selections", log_directory, logged),
    ]
    outputs = _plan_outputs(config, corpus, logged, parents)
    unfinished = [o for o in outputs if _finished(o) is None]
    if not unfinished:
        log.info("%s is complete already: nothing to do", " and ".join(o.directory for o in outputs))
        return manifests.read(config.output, kind="corpus")
    plans = [_plan(output, config, corpus, log_directory, logged) for output in unfinished]
    plans = [
        (output, plan)
        for output, plan in plans
        if job.claim(output.directory, "corpus", output.config, _identity(output), output.parents) is None
    ]
    if not plans:  # another attempt at this job has finished meanwhile
        return manifests.read(config.output, kind="corpus")
    log.info("curate: %d of %d rows into %s", outputs[0].rows, corpus.rows, ", ".join(o.directory for o, _ in plans))

    def is_complete() -> bool:
        return all(_finished(output) is not None for output in outputs)

    if not job.run(lambda pipeline: build(pipeline, config.corpus, corpus, plans), options, is_complete):
        return None
    return manifests.read(config.output, kind="corpus")


def build(
    pipeline: beam.Pipeline, directory: str, corpus: manifests.Manifest, plans: list[tuple[Output, list[ShardPlan]]]
) -> None:
    """Adds the writing of every planned dataset to a pipeline."""
    completed = []
    for output, plan in plans:
        written = (
            pipeline
            | f"List {output.label} shards" >> beam.Create(plan)
            | f"Spread {output.label} shards" >> beam.Reshuffle()
            | f"Write {output.label} shards" >> beam.Map(write_shard, output, directory, corpus.shards)
        )
        completed.append(
            {"written": written}
            | f"Gather {output.label} results" >> Gather()
            | f"Write {output.label} metadata and manifest" >> beam.Map(_complete, output)
        )
    # One end for all: a runner may compute no more than the last step needs.
    _ = completed | "All complete" >> beam.Flatten()


def _complete(found: dict[str, list[ShardResult]], output: Output) -> manifests.Manifest:
    return complete(output, found["written"])


def write_shard(plan: ShardPlan, output: Output, directory: str, corpus_shards: list[manifests.Shard]) -> ShardResult:
    """Writes one shard of a dataset, or takes up the one that an earlier attempt committed."""
    path = storage.as_path(output.directory) / shards.shard_name(output.dataset, plan.index, output.shards)
    tracked = progress.of(f"curate {output.label}", output.directory, "shard", output.shards, output.rows)
    if path.exists():
        adopted = shards.adopt_shard(path, uids=plan.uids)
        tracked.finish_part(taken_up=adopted.rows)
        return ShardResult(plan.index, adopted)
    corpus = shards.DatasetReader(directory, corpus_shards)
    written = shards.write_shard(path, _rows(corpus, plan, tracked))
    tracked.finish_part()
    log.info("curate: %s shard %d of %d, %d rows", output.label, plan.index + 1, output.shards, len(plan.rows))
    return ShardResult(plan.index, written.shard)


def complete(output: Output, written: list[ShardResult]) -> manifests.Manifest:
    """The last step: counts, TFDS metadata, the manifest."""
    done = _finished(output)
    if done is not None:  # by another attempt
        return done
    curated = isinstance(output.config, CurateConfig)
    over = output.picked_rows - output.rows
    passed = {
        rejections.Reason.NOT_PICKED: output.corpus_rows - output.picked_rows,
        rejections.Reason.OVER_BUDGET: over,
    }
    rejected = {reason: rows for reason, rows in passed.items() if rows}
    counts = manifests.Counts(read=output.corpus_rows, kept=output.rows, rejected=rejected)
    return complete_dataset(
        output.directory, output.dataset, written,
        row_kind="curated" if curated else "corpus", expected_shards=output.shards,
        kind="corpus", name=output.name, version=output.version, config=output.config, parents=output.parents,
        counts=counts,
    )  # fmt: skip


def top_reference_rows(directory: str, rows: int) -> np.ndarray:
    """Returns the rows whose pair the reference finds most alike, best first, ties to the lower row.

    The reference's own term −ℓ*_jj grows with x*_j·y*_j, so the order is that of `easy_reference`.

    Raises:
      DataError: fewer rows than asked for have valid embeddings.
    """
    manifest = manifests.read(directory, kind="embeddings")
    info = manifest.embeddings
    if info is None:
        raise IntegrityError(f"{directory}: the manifest of embeddings lacks its `embeddings` section")
    reader = shards.open_dataset(directory, manifest)
    alike = np.full(len(reader), -np.inf)
    for first in range(0, len(reader), _READ_ROWS):
        piece = range(first, min(first + _READ_ROWS, len(reader)))
        stored = [records.decode_embedding(row) for row in reader.read(piece)]
        image = records.unpack_vectors([e.image_embedding for e in stored], info.dtype, info.image_width)
        text = records.unpack_vectors([e.text_embedding for e in stored], info.dtype, info.text_width)
        alike[first : first + len(stored)] = np.where([e.valid for e in stored], (image * text).sum(-1), -np.inf)
    if np.isfinite(alike).sum() < rows:
        raise DataError(f"budget is {rows} rows and {np.isfinite(alike).sum()} have valid embeddings: lower the budget")
    return np.argsort(-alike, kind="stable")[:rows]


def _plan_outputs(
    config: CurateConfig, corpus: manifests.Manifest, logged: manifests.Manifest, parents: list[manifests.Parent]
) -> list[Output]:
    rows = config.rows_of(corpus.rows)
    curated = Output(
        label="curated", directory=config.output, name=config.name, version=config.version, config=config,
        parents=parents, dataset=manifests.DatasetInfo(name=config.name, split="train"), corpus_rows=corpus.rows,
        picked_rows=corpus.rows, rows=rows, shards=config.shards,
    )  # fmt: skip
    if config.control is None:
        return [curated]
    embeddings = config.embeddings or logged.parent("embeddings").path
    inputs: dict[str, list[manifests.Parent]] = {
        "uniform": parents[:1],
        "top_reference": [
            parents[0],
            manifests.as_parent("embeddings", embeddings, manifests.read(embeddings, kind="embeddings")),
        ],
    }
    if inputs["top_reference"][1].fingerprint != logged.parent("embeddings").fingerprint:
        raise IntegrityError(
            f"{embeddings} is {inputs['top_reference'][1].fingerprint}, and the selections were made with embeddings "
            f"{logged.parent('embeddings').fingerprint}: give the right ones with --embeddings"
        )
    return [curated] + [
        replace(
            curated,
            label=f"{control} control",
            directory=str(storage.as_path(config.control) / control),
            name=f"{config.name}_{control}",
            config=_ControlConfig(
                name=f"{config.name}_{control}", control=control, rows=rows, shards=config.shards, seed=config.seed
            ),  # type: ignore[arg-type]
            parents=inputs[control],
            dataset=manifests.DatasetInfo(name=f"{config.name}_{control}", split="train"),
        )
        for control in CONTROLS
    ]


def _finished(output: Output) -> manifests.Manifest | None:
    return job.finished(output.directory, "corpus", output.config, _identity(output), output.parents)


def _identity(output: Output) -> list[str]:
    return ["name", *job_config.content_fields(output.config)]


def _plan(
    output: Output, config: CurateConfig, corpus: manifests.Manifest, log_directory: str, logged: manifests.Manifest
) -> tuple[Output, list[ShardPlan]]:
    """Chooses the rows of a dataset and lays them out in shards; also says how many there were to choose from."""
    if isinstance(output.config, CurateConfig):
        offers = policies.count_offers(
            selections.read_superbatches(log_directory), logged.config["block_size"], corpus.rows
        )
        ranked = policies.aggregate(selections.read_picks(log_directory), offers)
        chosen = policies.choose(ranked, config.policy, output.rows)
        return replace(output, picked_rows=ranked.num_rows), lay_out(chosen, output.shards, config.seed)
    uids = _uids(config.corpus, corpus)
    if output.config.control == "uniform":
        # A key of its own: the corpus is already in the order of keyed_order(uid, seed).
        order = np.argsort([keyed_order(f"uniform {uid}", config.seed) for uid in uids], kind="stable")
        rows = order[: output.rows]
    else:
        rows = top_reference_rows(output.parents[1].path, output.rows)
    chosen = pa.table({"row": rows.astype(np.int64), "uid": [uids[row] for row in rows]})
    return output, lay_out(chosen, output.shards, config.seed)


def lay_out(chosen: pa.Table, count: int, seed: int) -> list[ShardPlan]:
    """Distributes chosen rows over shards, shuffled by a keyed hash of their uids.

    Raises:
      ConfigError: a shard would be empty.
    """
    rows = sorted(chosen.to_pylist(), key=lambda row: (keyed_order(row["uid"], seed), row["uid"]))
    plans = []
    for index in range(count):
        mine = [row for row in rows if shard_of(keyed_order(row["uid"], seed), count) == index]
        if not mine:
            raise ConfigError(
                f"--shards is {count}, and shard {index} would be empty: {len(rows)} rows are too few for so many"
            )
        selected = None
        if "visits" in chosen.column_names:
            selected = [
                records.Selection(
                    visits=row["visits"],
                    first_step=row["first_step"],
                    last_step=row["last_step"],
                    learnability=row["learnability"],
                )
                for row in mine
            ]
        plans.append(ShardPlan(index, [row["row"] for row in mine], [row["uid"] for row in mine], selected))
    return plans


def _rows(corpus: shards.DatasetReader, plan: ShardPlan, tracked: progress.Progress) -> Iterator[bytes]:
    selected: Sequence[records.Selection | None] = plan.selected or [None] * len(plan.rows)
    for first in range(0, len(plan.rows), _READ_ROWS):
        piece = slice(first, first + _READ_ROWS)
        rows = zip(corpus.read(plan.rows[piece]), plan.uids[piece], selected[piece], strict=True)
        for row, (record, uid, selection) in zip(plan.rows[piece], rows, strict=True):
            example = records.decode_example(record)
            if example.uid != uid:
                raise IntegrityError(
                    f"row {row} of {corpus.directory} is {example.uid}, and the selections call it {uid}: they belong "
                    "to different corpora"
                )
            yield records.encode_example(replace(example, selection=selection))
        if line := tracked.count(len(plan.rows[piece])):
            log.info("%s", line)


def _uids(directory: str, corpus: manifests.Manifest) -> list[str]:
    root = storage.as_path(directory)
    return [
        records.record_uid(row) for shard in corpus.shards for row in shards.read_all(root / shard.name, shard.rows)
    ]


Config = CurateConfig

if __name__ == "__main__":
    job.main("curate")
