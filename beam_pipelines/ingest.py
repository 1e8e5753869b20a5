"""`superbatch ingest`: a raw corpus becomes ArrayRecord shards that TFDS reads.

    source tasks ─ read, check, normalise ─► spools (images stay in files) + keys
    keys ─ group by uid, drop exact duplicates ─ group by text, mark what is repeated ─ group by shard ─► shards
    shards, in keyed order ─► metadata, manifest

Only keys are shuffled; images go through spool files, each sorted as the corpus is. A row's shard and place depend on
its uid and the seed alone.
Every piece is committed under a final name, so a rerun takes up what an earlier attempt finished.
"""

import dataclasses
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import apache_beam as beam

from beam_pipelines import job, progress, sources, texts
from beam_pipelines.completion import Gather, ShardResult, complete_dataset
from beam_pipelines.ingest_config import SOURCE_FIELDS, IngestConfig
from beam_pipelines.normalise import normalise_image
from beam_pipelines.spool import Key, Spooled, Spools
from schemas import access, job_config, records, rejections, shards, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, DataError
from schemas.identity import canonical_json, example_uid, image_identity, keyed_order, shard_of

STAGE = "ingest"
_STATS = 32  # files asked about at a time
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UniqueKey:
    """The first of the rows that share a uid, and how many there were; or, of such a row, that it is boilerplate."""

    key: Key
    copies: int
    repeated: bool = False


def run(config: IngestConfig, beam_flags: list[str]) -> manifests.Manifest | None:
    """Runs the job; returns the corpus's manifest, or None if a remote runner goes on with it."""
    options = job.parse_options(beam_flags, config)
    done = _finished(config)
    if done is not None:
        log.info("%s is complete already: nothing to do", config.output)
        return done
    source, address = config.parse_source()
    access.check(address)
    tasks = source.list_tasks(address)
    if (done := job.claim(config.output, "corpus", config, config.identity, parents=[])) is not None:
        return done
    _forget_other_source(config, tasks)
    log.info("ingest: %d source tasks into %d shards", len(tasks), config.shards)
    if not job.run(lambda pipeline: build(pipeline, config, tasks), options, lambda: _finished(config) is not None):
        return None
    return manifests.read(config.output, kind="corpus")


def build(pipeline: beam.Pipeline, config: IngestConfig, tasks: list[sources.Task]) -> None:
    """Adds the whole job to a pipeline."""
    spooled = (
        pipeline
        | "List source tasks" >> beam.Create(tasks)
        | "Spread tasks" >> beam.Reshuffle()
        | "Read and normalise" >> beam.Map(lambda task: spool_task(config, task, len(tasks)))
    )
    unique = (
        spooled
        | "List keys" >> beam.FlatMap(_spools(config).keys)
        | "Key by uid" >> beam.Map(lambda key: (key.uid, key)).with_output_types(tuple[str, Key])
        | "Group by uid" >> beam.GroupByKey()
        | "Drop exact duplicates" >> beam.MapTuple(lambda _, keys: first_of(keys))
    )
    if (allowed := config.max_text_repeats) is not None:
        unique = (
            unique
            | "Key by text"
            >> beam.Map(lambda found: (found.key.text_id, found)).with_output_types(tuple[str, UniqueKey])
            | "Group by text" >> beam.GroupByKey()
            | "Mark repeated texts" >> beam.FlatMapTuple(lambda _, found: mark_repeated(found, allowed))
        )
    placed = unique | "Choose shard" >> beam.Map(
        lambda found: (shard_of(keyed_order(found.key.uid, config.seed), config.shards), found)
    ).with_output_types(tuple[int, UniqueKey])
    every_shard = pipeline | "List shards" >> beam.Create(
        [(index, None) for index in range(config.shards)]
    ).with_output_types(tuple[int, None])
    written = (
        {"keys": placed, "shard": every_shard}
        | "Group by shard" >> beam.CoGroupByKey()
        | "Write corpus shards" >> beam.MapTuple(lambda index, groups: write_shard(config, index, groups["keys"]))
    )
    _ = (
        {"written": written, "tallies": spooled}
        | "Gather results" >> Gather()
        | "Write metadata and manifest" >> beam.Map(lambda found: complete(config, **found))
    )


def first_of(keys: Iterable[Key]) -> UniqueKey:
    """Picks the row to keep of those that are exactly the same pair: the first in source order."""
    found = sorted(keys, key=lambda key: (key.task, key.row))
    return UniqueKey(found[0], copies=len(found))


def mark_repeated(found: Iterable[UniqueKey], allowed: int) -> Iterator[UniqueKey]:
    """Marks the rows of one text if there are more than are allowed; holds no more than that in memory."""
    rest = iter(found)
    first = list(itertools.islice(rest, allowed + 1))
    if len(first) <= allowed:
        yield from first
    else:
        yield from (dataclasses.replace(row, repeated=True) for row in itertools.chain(first, rest))


def spool_task(config: IngestConfig, task: sources.Task, tasks: int) -> Spooled:
    """Spools one of so many tasks, or takes up the spool that an earlier attempt committed."""
    tracked = progress.of(STAGE, config.output, "task", tasks)
    name, spools = _spool_name(config, task), _spools(config)
    found = spools.take_up(name, task.index)
    if found is not None:
        tracked.finish_part(taken_up=found.read)
        return found
    source, _ = config.parse_source()
    spooled = spools.write(name, task.index, source.read(task), lambda raw: normalise_pair(raw, config), tracked)
    tracked.finish_part()
    return spooled


def normalise_pair(raw: sources.RawPair, config: IngestConfig) -> records.Example:
    """Returns the example to store.

    Raises:
      RejectedError: with the reason.
    """
    if raw.problem is not None:
        raise rejections.RejectedError(raw.problem, raw.detail)
    text = texts.normalise_caption(raw.text, config.text_limits)
    stored = normalise_image(raw.image, config.image_limits)
    language = texts.language_tag(raw.language)
    if language == texts.UNKNOWN_LANGUAGE and config.detect_language is not None:
        language = texts.detect_language(text, config.detect_language)
    return records.Example(
        image=stored.image,
        text=text,
        uid=example_uid(stored.image, text),
        image_id=image_identity(stored.image),
        language=language,
        url=rejections.printable(raw.url),
        source=rejections.printable(raw.source),
        width=stored.width,
        height=stored.height,
    )


def write_shard(config: IngestConfig, index: int, found: Iterable[UniqueKey]) -> ShardResult:
    """Writes one shard of the corpus in keyed order, reading its rows from the spools by random access.

    Rows whose text is boilerplate are written beside it as rejections instead.
    """
    ordered = sorted(found, key=lambda row: (keyed_order(row.key.uid, config.seed), row.key.uid))
    kept, repeated = ([row.key for row in ordered if row.repeated is is_it] for is_it in (False, True))
    duplicates = sum(row.copies - 1 for row in ordered)
    path = storage.as_path(config.output) / shards.shard_name(config.dataset, index, config.shards)
    if path.exists():
        shard = shards.adopt_shard(path, uids=[key.uid for key in kept])
        return ShardResult(index, shard, duplicates=duplicates, rejected=len(repeated))
    if repeated:  # before the shard is committed: a shard that stands has its rejections beside it
        _reject_repeated(config, index, repeated)
    written = shards.write_shard(path, _spools(config).read(kept))
    log.info("ingest: shard %d of %d written, %d rows", index + 1, config.shards, written.shard.rows)
    return ShardResult(index, written.shard, duplicates=duplicates, rejected=len(repeated))


def _reject_repeated(config: IngestConfig, index: int, keys: list[Key]) -> None:
    examples = (records.decode_example(row) for row in _spools(config).read(keys))
    detail = f"comes with more than {config.max_text_repeats} images: "
    rows = [
        rejections.Rejection(
            source=e.source, stage=STAGE, reason=rejections.Reason.REPEATED_TEXT, detail=detail + e.text
        )
        for e in examples
    ]
    rejections.write(storage.as_path(config.output) / rejections.DIRECTORY / f"repeated-{index:05d}.parquet", rows)


def complete(config: IngestConfig, written: list[ShardResult], tallies: list[Spooled]) -> manifests.Manifest:
    """The last step: counts, the rejected-share check, TFDS metadata, the manifest; then removes the spools.

    Raises:
      ConfigError: a shard is empty.
      DataError: too much was rejected, or the source changed while it was read.
    """
    done = _finished(config)
    if done is not None:  # by another attempt, which has removed the spools
        return done
    tallies = sorted(tallies, key=lambda tally: tally.task)
    _refuse_changed_source(config, [tally.spool for tally in tallies])
    rejected: Counter[rejections.Reason] = Counter()
    for tally in tallies:
        rejected.update({rejections.Reason(reason): n for reason, n in tally.rejected.items()})
    if repeated := sum(result.rejected for result in written):
        rejected[rejections.Reason.REPEATED_TEXT] = repeated
    counts = manifests.Counts(
        read=sum(t.read for t in tallies),
        kept=sum(result.shard.rows for result in written),
        duplicates=sum(result.duplicates for result in written),
        rejected=dict(rejected),
    )
    job.check_rejected(counts, config.max_rejected_fraction)
    empty = [result.index for result in written if not result.shard.rows]
    if empty:
        raise ConfigError(
            f"--shards is {config.shards}, and shard {empty[0]} is empty: {counts.kept} rows are too few for so many. "
            f"Delete {config.output} and use fewer"
        )
    for tally in tallies:
        if tally.rejected:
            target = storage.as_path(config.output) / rejections.DIRECTORY / f"part-{tally.task:05d}.parquet"
            storage.replace(target, _spools(config).rejections(tally.spool).read_bytes())
    return complete_dataset(
        config.output, config.dataset, written, row_kind="corpus", expected_shards=config.shards,
        kind="corpus", name=config.name, version=config.version, config=config, parents=[], counts=counts,
    )  # fmt: skip


def _finished(config: IngestConfig) -> manifests.Manifest | None:
    return job.finished(config.output, "corpus", config, config.identity, parents=[])


def _spools(config: IngestConfig) -> Spools:
    return Spools(storage.as_path(config.output) / job.WORK_DIRECTORY, config.seed)


def _spool_name(config: IngestConfig, task: sources.Task) -> str:
    """Names a task's spool by all that decides it, so that a source which has changed is read anew."""
    stat = storage.as_path(task.path).stat()
    decided_later = ("shards", "max_text_repeats")
    decide = [*SOURCE_FIELDS, *(name for name in job_config.content_fields(config) if name not in decided_later)]
    settings = {name: getattr(config, name) for name in decide}
    identity = [dataclasses.asdict(task), stat.length, str(stat.mtime), settings]
    return f"{task.index:05d}-{hashlib.sha256(canonical_json(identity)).hexdigest()[:12]}"


def _forget_other_source(config: IngestConfig, tasks: list[sources.Task]) -> None:
    """Removes what an unfinished attempt made of a source that has changed since: it holds other rows."""
    with ThreadPoolExecutor(_STATS) as threads:
        now = canonical_json(list(threads.map(lambda task: _spool_name(config, task), tasks)))
    marker, output = _marker(config), storage.as_path(config.output)
    if marker.exists() and marker.read_bytes() != now:
        log.info("ingest: the source has changed since the last attempt; its shards are made anew")
        for shard in output.glob(f"{config.name}-{config.split}.array_record-*"):
            shard.unlink(missing_ok=True)
        storage.remove_tree(output / rejections.DIRECTORY)
    storage.replace(marker, now)


def _refuse_changed_source(config: IngestConfig, spooled: list[str]) -> None:
    """Checks that what was read is what the job set out to read, and that no other attempt found another source.

    Raises:
      DataError: it is not.
    """
    if _marker(config).read_bytes() != canonical_json(spooled):
        raise DataError(
            f"{config.source} changed while it was read: run the job again when nobody writes there any more"
        )


def _marker(config: IngestConfig) -> storage.epath.Path:
    """The file that says of which files the unfinished shards are made."""
    return _spools(config).folder / "source.json"


Config = IngestConfig

if __name__ == "__main__":
    job.main("ingest")
