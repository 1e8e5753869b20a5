"""`superbatch curate`: what the learner picked becomes a dataset; what it is compared with, two more.

    log of picks (of a control: keys of the embeddings' rows) ─ rank, cut at the budget ─► a file of rows for each shard
    files ─ random access to the corpus ─► shards, each with its index ─► card, metadata, manifest

A curated dataset is a corpus again, with `selection/*` features added. With `--control`, two plain corpora of the same
size are written from the same pool: a uniform sample, and the rows that the reference alone scores best.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam

from beam_pipelines import card, choice, croissant, curate_keys, job, progress
from beam_pipelines.choice import Choice, ChosenRow
from beam_pipelines.completion import Gather, ShardResult, complete_dataset
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.curate_plan import STAGE, Inputs, Output, list_outputs, read_inputs
from beam_pipelines.rights import Rights
from schemas import index as indices
from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.rejections import Reason

_READ_ROWS = 256
log = logging.getLogger(__name__)


def run(config: CurateConfig, beam_flags: list[str]) -> manifests.Manifest | None:
    """Runs the job; returns the curated dataset's manifest, or None if a remote runner goes on with it."""
    options = job.parse_options(beam_flags, config)
    inputs = read_inputs(config)
    outputs = list_outputs(config, inputs)
    unfinished = [output for output in outputs if output.finished() is None]
    if not unfinished:
        log.info("%s is complete already: nothing to do", " and ".join(o.directory for o in outputs))
        return manifests.read(config.output, kind="corpus")
    claimed = [output for output in unfinished if output.claim() is None]
    if not claimed:  # another attempt at this job has finished meanwhile
        return manifests.read(config.output, kind="corpus")
    names = ", ".join(output.directory for output in claimed)
    log.info("curate: %d of %d rows into %s", outputs[0].rows, inputs.corpus_rows, names)

    def is_complete() -> bool:
        return all(output.finished() is not None for output in outputs)

    try:
        waited = job.run(lambda pipeline: build(pipeline, config, inputs, claimed), options, is_complete)
    except (ConfigError, DataError):
        for output in claimed:
            output.release()
        raise
    return manifests.read(config.output, kind="corpus") if waited else None


def build(pipeline: beam.Pipeline, config: CurateConfig, inputs: Inputs, outputs: list[Output]) -> None:
    """Adds the choosing and writing of every dataset to a pipeline."""
    # One end for all: a runner may compute no more than the last step needs.
    _ = [_build(pipeline, config, inputs, output) for output in outputs] | "All complete" >> beam.Flatten()


def _build(pipeline: beam.Pipeline, config: CurateConfig, inputs: Inputs, output: Output) -> Any:
    label = output.label
    known = {}
    if output.control is not None:
        known["keys"] = (
            pipeline
            | f"List embeddings for {label}" >> beam.Create(range(inputs.embedding_shards))
            | f"Spread embeddings for {label}" >> beam.Reshuffle()
            | f"Key rows for {label}" >> beam.Map(lambda index: curate_keys.score_shard(output, inputs, index))
        )
    if config.quotas:
        known["groups"] = (
            pipeline
            | f"List corpus shards for {label}" >> beam.Create(range(inputs.corpus_shards))
            | f"Spread corpus shards for {label}" >> beam.Reshuffle()
            | f"Group rows for {label}" >> beam.Map(lambda index: curate_keys.group_shard(output, inputs, index))
        )
    if known:
        begin = known | f"Gather facts for {label}" >> Gather()
    else:
        begin = pipeline | f"Begin {label}" >> beam.Create([{}])
    written = (
        begin
        | f"Choose {label} rows" >> beam.FlatMap(lambda found: choose_shards(output, config, inputs, found))
        | f"Spread {label} shards" >> beam.Reshuffle()
        | f"Write {label} shards" >> beam.Map(lambda index: write_shard(output, inputs, index))
    )
    return (
        {"written": written}
        | f"Gather {label} results" >> Gather()
        | f"Write {label} metadata and manifest" >> beam.Map(lambda found: complete(output, found["written"]))
    )


def choose_shards(output: Output, config: CurateConfig, inputs: Inputs, found: dict[str, list[str]]) -> Iterable[int]:
    """Chooses the rows of a dataset; returns the numbers of the shards that they make."""
    choice.choose(output, config, inputs, found.get("keys", []), found.get("groups", []))
    return range(output.shards)


def write_shard(output: Output, inputs: Inputs, index: int) -> ShardResult:
    """Writes one shard of a dataset, or takes up the one that an earlier attempt committed."""
    rows = choice.read_shard(output, index)
    name = shards.shard_name(output.dataset, index, output.shards)
    path = storage.as_path(output.directory) / name
    tracked = progress.of(f"{STAGE} {output.label}", output.directory, "shard", output.shards, output.rows)
    with indices.Writer(output.directory, output.row_kind, name) as indexing:
        if path.exists():
            shard = shards.adopt_shard(path, uids=[row.uid for row in rows])
            for record in shards.read_all(path, shard.rows):
                indexing.add(records.decode_example(record))
            tracked.finish_part(taken_up=shard.rows)
        else:
            corpus = shards.open_dataset(inputs.corpus, manifests.read(inputs.corpus, kind="corpus"))
            chosen = (indexing.add(example) for example in _examples(corpus, rows, tracked))
            shard = shards.write_shard(path, map(records.encode_example, chosen)).shard
            tracked.finish_part()
            log.info("curate: %s shard %d of %d, %d rows", output.label, index + 1, output.shards, len(rows))
        indexed = indexing.commit()
    return ShardResult(index, shard, facts={"index": indexed.file, "languages": indexed.languages})


def complete(output: Output, written: list[ShardResult]) -> manifests.Manifest:
    """The last step: counts, the list of what was passed over, the card, TFDS and Croissant metadata, the manifest."""
    done = output.finished()
    if done is not None:  # by another attempt
        return done
    chosen: Choice = choice.read_choice(output)
    rejected = {Reason(reason): rows for reason, rows in chosen.rejected.items()}
    counts = manifests.Counts(read=output.rows + sum(rejected.values()), kept=output.rows, rejected=rejected)
    described = describe(output, written, counts)
    for name, content in (choice.alike_files(output, chosen) | described).items():
        storage.replace(storage.as_path(output.directory) / name, content)
    return complete_dataset(
        output.directory, output.dataset, written,
        row_kind=output.row_kind, expected_shards=output.shards, extra_files=tuple(described),
        kind="corpus", name=output.name, version=output.version, config=output.config, parents=output.parents,
        counts=counts, said=Rights.of(output.config).for_tfds(),
    )  # fmt: skip


def describe(output: Output, written: list[ShardResult], counts: manifests.Counts) -> dict[str, bytes]:
    """The files that tell people and programs what a dataset is, by their names."""
    languages: Counter[str] = Counter()
    for result in written:
        languages.update(result.facts["languages"])
    described = croissant.render(
        name=output.name, version=output.version, description=card.description(output),
        rights=Rights.of(output.config), dataset=output.dataset, kind=output.row_kind,
        shards=[result.shard for result in sorted(written, key=lambda result: result.index)],
        languages=card.by_rows(languages),
    )  # fmt: skip
    return {card.FILE_NAME: card.render(output, counts, languages), croissant.FILE_NAME: described}


def _examples(
    corpus: shards.DatasetReader, rows: list[ChosenRow], tracked: progress.Progress
) -> Iterator[records.Example]:
    for first in range(0, len(rows), _READ_ROWS):
        piece = rows[first : first + _READ_ROWS]
        for chosen, record in zip(piece, corpus.read([row.row for row in piece]), strict=True):
            example = records.decode_example(record)
            if example.uid != chosen.uid:
                raise IntegrityError(
                    f"row {chosen.row} of {corpus.directory} is {example.uid}, and the selections call it "
                    f"{chosen.uid}: they belong to different corpora"
                )
            yield replace(example, selection=chosen.selection)
        if line := tracked.count(len(piece)):
            log.info("%s", line)


Config = CurateConfig

if __name__ == "__main__":
    job.main("curate")
