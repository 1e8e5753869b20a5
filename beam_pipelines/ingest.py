"""`superbatch ingest`: a raw corpus becomes ArrayRecord shards that TFDS reads.

    source tasks ─ read, check, normalise ─► spools (images stay in files) + keys
    keys ─ group by uid, drop exact duplicates ─ group by shard ─► shards in keyed order ─► metadata, manifest

Only keys are shuffled; images go through spool files. A row's shard and place depend on its uid and the seed alone.
Every piece is committed under a final name, so a rerun takes up what an earlier attempt finished.
"""

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, TaggedOutput

from beam_pipelines import job, normalise, sources
from beam_pipelines.completion import ShardResult, complete_dataset
from beam_pipelines.spool import Key, Spooled, Spools
from schemas import job_config, records, rejections, shards, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError
from schemas.identity import canonical_json, example_uid, image_identity, keyed_order, shard_of
from schemas.job_config import content

STAGE = "ingest"
_SOURCE_FIELDS = ("source", "image_field", "text_field", "language_field", "url_field")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Turn a raw corpus into ArrayRecord shards: decode-checked, normalised, deduplicated, shuffled once."""

    source: str
    """webdataset:GLOB, parquet:GLOB or folder:DIR"""
    name: str
    """name of the dataset; letters, digits and _ (TFDS's rule)"""
    output: str
    """directory of the corpus to make"""
    version: str = "1.0.0"
    """version recorded in the manifest"""
    split: str = "train"
    """TFDS split that the rows form"""
    image_field: str | None = None
    """of parquet: the column of image bytes; image if not given"""
    text_field: str | None = None
    """of parquet: the column of texts; text if not given"""
    language_field: str | None = None
    """of parquet: the column of languages; language if not given"""
    url_field: str | None = None
    """of parquet: the column of urls; url if not given"""
    shards: int = content(8)
    """number of shards"""
    seed: int = content(0)
    """key of the one global shuffle"""
    max_pixels: int = content(2**26)
    """largest image accepted, width × height"""
    max_text_characters: int = content(10_000)
    """longest text accepted"""
    max_rejected_fraction: float = 0.05
    """the job fails if a larger share of rows is rejected"""

    def __post_init__(self) -> None:
        self.parse_source()
        manifests.check_dataset_name("name", self.name)
        manifests.check_dataset_name("split", self.split)
        for field in ("shards", "max_pixels", "max_text_characters"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must lie in [0, 2³²)")
        manifests.check_version(self.version)
        if not 0 <= self.max_rejected_fraction <= 1:
            raise ConfigError(f"max_rejected_fraction is {self.max_rejected_fraction}; it must lie in [0, 1]")

    def parse_source(self) -> tuple[sources.Source, str]:
        """The format that is read, and where it lies.

        Raises:
          ConfigError: there is no such format, or it has no fields to name.
        """
        given = {name: getattr(self, f"{name}_field") for name in ("image", "text", "language", "url")}
        given = {name: field for name, field in given.items() if field is not None}
        return sources.parse(self.source, sources.Fields(**given) if given else None)

    @property
    def dataset(self) -> manifests.DatasetInfo:
        """How TFDS names the rows."""
        return manifests.DatasetInfo(name=self.name, split=self.split)

    @property
    def identity(self) -> list[str]:
        """The fields that make two jobs on one output directory the same job."""
        return [*_SOURCE_FIELDS, "name", "split", *job_config.content_fields(self)]


@dataclass(frozen=True)
class KeptKey:
    """The first of the rows that share a uid, and how many there were."""

    key: Key
    copies: int


def run(config: IngestConfig, beam_flags: list[str]) -> manifests.Manifest | None:
    """Runs the job; returns the corpus's manifest, or None if a remote runner goes on with it."""
    options = job.parse_options(beam_flags, config)
    done = job.finished(config.output, "corpus", config, config.identity, parents=[])
    if done is not None:
        log.info("%s is complete already: nothing to do", config.output)
        return done
    source, address = config.parse_source()
    tasks = source.list_tasks(address)
    job.claim(config.output, config, config.identity, parents=[])
    _forget_other_source(config, tasks)
    log.info("ingest: %d source tasks into %d shards", len(tasks), config.shards)
    if not job.run(lambda pipeline: build(pipeline, config, tasks), options):
        return None
    return manifests.read(config.output, kind="corpus")


def build(pipeline: beam.Pipeline, config: IngestConfig, tasks: list[sources.Task]) -> None:
    """Adds the whole job to a pipeline."""
    spooled = (
        pipeline
        | "List source tasks" >> beam.Create(tasks)
        | "Spread tasks" >> beam.Reshuffle()
        | "Read and normalise" >> beam.ParDo(SpoolPairs(config)).with_outputs(SpoolPairs.TALLIES, main="keys")
    )
    kept = (
        spooled.keys
        | "Key by uid" >> beam.Map(lambda key: (key.uid, key))
        | "Group by uid" >> beam.GroupByKey()
        | "Drop exact duplicates" >> beam.MapTuple(lambda _, keys: first_of(keys))
        | "Choose shard"
        >> beam.Map(lambda kept: (shard_of(keyed_order(kept.key.uid, config.seed), config.shards), kept))
    )
    every_shard = pipeline | "List shards" >> beam.Create([(index, None) for index in range(config.shards)])
    written = (
        {"keys": kept, "shard": every_shard}
        | "Group by shard" >> beam.CoGroupByKey()
        | "Write corpus shards" >> beam.MapTuple(lambda index, groups: write_shard(config, index, groups["keys"]))
    )
    _ = (
        pipeline
        | "Begin completion" >> beam.Create([config])
        | "Write metadata and manifest" >> beam.Map(complete, AsList(written), AsList(spooled[SpoolPairs.TALLIES]))
    )


def first_of(keys: Iterable[Key]) -> KeptKey:
    """Picks the row to keep of those that are exactly the same pair: the first in source order."""
    found = sorted(keys, key=lambda key: (key.task, key.row))
    return KeptKey(found[0], copies=len(found))


class SpoolPairs(beam.DoFn):
    """Reads a task, writes its good pairs to a spool and its rejections beside the corpus, and emits keys."""

    TALLIES = "tallies"

    def __init__(self, config: IngestConfig):
        self._config = config

    def process(self, task: sources.Task) -> Iterator[Any]:
        """Emits a `Key` for every spooled row, and a `Spooled` tally."""
        tally, uids = spool_task(self._config, task)
        yield TaggedOutput(self.TALLIES, tally)
        for row, uid in enumerate(uids):
            yield Key(uid, task.index, tally.spool, row)


def spool_task(config: IngestConfig, task: sources.Task) -> tuple[Spooled, list[str]]:
    """Spools one task, or takes up the spool that an earlier attempt committed; returns its tally and uids."""
    name, spools = _spool_name(config, task), _spools(config)
    found = spools.take_up(name, task.index)
    if found is not None:
        return found
    source, _ = config.parse_source()
    return spools.write(name, task.index, source.read(task), lambda raw: normalise_pair(raw, config), STAGE)


def normalise_pair(raw: sources.RawPair, config: IngestConfig) -> records.Example:
    """Returns the example to store.

    Raises:
      normalise.RejectedError: with the reason.
    """
    if raw.problem is not None:
        raise normalise.RejectedError(raw.problem, raw.detail)
    text = normalise.normalise_caption(raw.text, config.max_text_characters)
    stored = normalise.normalise_image(raw.image, config.max_pixels)
    return records.Example(
        image=stored.image,
        text=text,
        uid=example_uid(stored.image, text),
        image_id=image_identity(stored.image),
        language=rejections.printable(raw.language),
        url=rejections.printable(raw.url),
        source=rejections.printable(raw.source),
        width=stored.width,
        height=stored.height,
    )


def write_shard(config: IngestConfig, index: int, kept: Iterable[KeptKey]) -> ShardResult:
    """Writes one shard of the corpus in keyed order, reading its rows from the spools by random access."""
    ordered = sorted(kept, key=lambda k: (keyed_order(k.key.uid, config.seed), k.key.uid))
    path = storage.as_path(config.output) / shards.shard_name(config.dataset, index, config.shards)
    duplicates = sum(k.copies - 1 for k in ordered)
    if path.exists():
        shard = shards.adopt_shard(path, uids=[k.key.uid for k in ordered])
        return ShardResult(index, shard, duplicates=duplicates)
    written = shards.write_shard(path, _spools(config).read([k.key for k in ordered]))
    log.info("ingest: shard %d of %d written, %d rows", index + 1, config.shards, written.shard.rows)
    return ShardResult(index, written.shard, duplicates=duplicates)


def complete(config: IngestConfig, written: list[ShardResult], tallies: list[Spooled]) -> manifests.Manifest:
    """The last step: counts, the rejected-share check, TFDS metadata, the manifest; then removes the spools."""
    rejected: Counter[rejections.Reason] = Counter()
    for tally in tallies:
        rejected.update({rejections.Reason(reason): n for reason, n in tally.rejected.items()})
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


def _spools(config: IngestConfig) -> Spools:
    return Spools(storage.as_path(config.output) / job.WORK_DIRECTORY)


def _spool_name(config: IngestConfig, task: sources.Task) -> str:
    """Names a task's spool by all that decides it, so that a source which has changed is read anew."""
    stat = storage.as_path(task.path).stat()
    settings = {name: getattr(config, name) for name in (*_SOURCE_FIELDS, "max_pixels", "max_text_characters")}
    identity = [dataclasses.asdict(task), stat.length, str(stat.mtime), settings]
    return f"{task.index:05d}-{hashlib.sha256(canonical_json(identity)).hexdigest()[:12]}"


def _forget_other_source(config: IngestConfig, tasks: list[sources.Task]) -> None:
    """Removes the shards of an unfinished attempt at a source that has changed since: they hold other rows."""
    marker, now = _spools(config).folder / "source.json", canonical_json([_spool_name(config, task) for task in tasks])
    if marker.exists() and marker.read_bytes() != now:
        log.info("ingest: the source has changed since the last attempt; its shards are made anew")
        for shard in storage.as_path(config.output).glob(f"{config.name}-{config.split}.array_record-*"):
            shard.unlink()
    storage.replace(marker, now)


Config = IngestConfig

if __name__ == "__main__":
    job.main("ingest")
