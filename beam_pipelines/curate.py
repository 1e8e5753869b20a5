"""`superbatch curate`: what the learner picked becomes a dataset; what it is compared with, two more.

    picks ─ aggregate, rank, cut at the budget ─► plans (which corpus rows go into which shard)
    plans ─ random access to the corpus ─► shards ─► metadata, manifest

The unit of work is an output shard. A curated dataset is a corpus again, with `selection/*` features added. With
`--control`, two plain corpora of the same size are written from the same pool: a uniform sample, and the rows that the
reference alone scores best.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import apache_beam as beam

from beam_pipelines import curate_plan, job, progress
from beam_pipelines.completion import Gather, ShardResult, complete_dataset
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.curate_plan import Output, Plan, ShardPlan
from schemas import manifest as manifests
from schemas import records, rejections, shards, storage
from schemas.errors import IntegrityError

_READ_ROWS = 256
log = logging.getLogger(__name__)


def run(config: CurateConfig, beam_flags: list[str]) -> manifests.Manifest | None:
    """Runs the job; returns the curated dataset's manifest, or None if a remote runner goes on with it."""
    options = job.parse_options(beam_flags, config)
    inputs = curate_plan.read_inputs(config)
    outputs = curate_plan.list_outputs(config, inputs)
    unfinished = [output for output in outputs if output.finished() is None]
    if not unfinished:
        log.info("%s is complete already: nothing to do", " and ".join(o.directory for o in outputs))
        return manifests.read(config.output, kind="corpus")
    plans = [plan for plan in list(curate_plan.plan(unfinished, config, inputs)) if plan.output.claim() is None]
    if not plans:  # another attempt at this job has finished meanwhile
        return manifests.read(config.output, kind="corpus")
    for plan in plans:
        if plan.alike:
            path = storage.as_path(plan.output.directory) / rejections.DIRECTORY / "alike.parquet"
            rejections.write(path, curate_plan.list_alike(plan, inputs.corpus, config.decontaminate))
    names = ", ".join(plan.output.directory for plan in plans)
    log.info("curate: %d of %d rows into %s", outputs[0].rows, inputs.corpus.rows, names)

    def is_complete() -> bool:
        return all(output.finished() is not None for output in outputs)

    if not job.run(lambda pipeline: build(pipeline, config.corpus, inputs.corpus, plans), options, is_complete):
        return None
    return manifests.read(config.output, kind="corpus")


def build(pipeline: beam.Pipeline, directory: str, corpus: manifests.Manifest, plans: Sequence[Plan]) -> None:
    """Adds the writing of every planned dataset to a pipeline."""
    completed = []
    for plan in plans:
        output = plan.output
        written = (
            pipeline
            | f"List {output.label} shards" >> beam.Create(plan.shards)
            | f"Spread {output.label} shards" >> beam.Reshuffle()
            | f"Write {output.label} shards" >> beam.Map(write_shard, output, directory, corpus.shards)
        )
        completed.append(
            {"written": written}
            | f"Gather {output.label} results" >> Gather()
            | f"Write {output.label} metadata and manifest" >> beam.Map(_complete, output, plan.rejected)
        )
    # One end for all: a runner may compute no more than the last step needs.
    _ = completed | "All complete" >> beam.Flatten()


def _complete(
    found: dict[str, list[ShardResult]], output: Output, rejected: dict[rejections.Reason, int]
) -> manifests.Manifest:
    return complete(output, rejected, found["written"])


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


def complete(output: Output, rejected: dict[rejections.Reason, int], written: list[ShardResult]) -> manifests.Manifest:
    """The last step: counts, TFDS metadata, the manifest."""
    done = output.finished()
    if done is not None:  # by another attempt
        return done
    curated = isinstance(output.config, CurateConfig)
    counts = manifests.Counts(read=output.rows + sum(rejected.values()), kept=output.rows, rejected=rejected)
    return complete_dataset(
        output.directory, output.dataset, written,
        row_kind="curated" if curated else "corpus", expected_shards=output.shards,
        kind="corpus", name=output.name, version=output.version, config=output.config, parents=output.parents,
        counts=counts,
    )  # fmt: skip


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


Config = CurateConfig

if __name__ == "__main__":
    job.main("curate")
