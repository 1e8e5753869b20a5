"""`superbatch publish`: a complete dataset becomes an immutable version in a bucket, or in a folder.

    claim ─ copy shards, as many at a time as there are workers ─► other files, TFDS's metadata, manifest ─► alias

The unit of work is a shard. `publication` says whose the version is, `copying` what happens to each file and in which
order, `aliases` how pointers move.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam

from beam_pipelines import aliases, copying, job, progress, publication
from beam_pipelines import store as stores
from beam_pipelines.completion import Gather
from beam_pipelines.copying import Copied
from beam_pipelines.publication import Publication
from schemas import alias as alias_files
from schemas import features
from schemas import manifest as manifests
from schemas.errors import ConfigError

STAGE = "publish"
_SHOWN_DIGITS = 12
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Publish a dataset as DESTINATION/NAME/VERSION: complete or absent, and never changed.

    Its name and version are those that it was made with (--name and --version of `curate` or `ingest`).
    """

    dataset: str
    """directory of the dataset, a folder or gs://"""
    destination: str
    """gs://BUCKET/PREFIX or a folder; versions lie below it"""
    alias: str | None = None
    """when the version is complete, point DESTINATION/aliases/NAME/ALIAS.json at it; usually latest"""
    publisher: str | None = None
    """who publishes, for others to read; by default the service account that writes, or the user's name"""

    def __post_init__(self) -> None:
        stores.check_address("destination", self.destination)
        if self.alias is not None:
            alias_files.check_alias(self.alias)
        if self.publisher is not None and not (self.publisher.strip() and self.publisher.isprintable()):
            raise ConfigError(f"publisher is {self.publisher!r}; it must be a name, in one line")

    @property
    def output(self) -> str:
        """What is complete when the job ends."""
        return self.destination


@dataclass(frozen=True)
class Published:
    """A version that is complete."""

    directory: str
    manifest: manifests.Manifest
    alias: str | None

    def __str__(self) -> str:
        manifest = self.manifest
        size = sum(file.bytes for file in (*manifest.shards, *manifest.files))
        named = f"; {self.alias} names it" if self.alias else ""
        tfds = {file.name for file in manifest.files}.issuperset(features.FILES)
        read = f'; read it with tfds.builder_from_directory("{self.directory}")' if tfds else ""
        return (
            f"published {manifest.kind} {manifest.name} {manifest.version} at {self.directory}: {manifest.rows} rows "
            f"in {len(manifest.shards)} shards, {len(manifest.files)} other files, {size:,} bytes, fingerprint "
            f"{manifest.fingerprint[:_SHOWN_DIGITS]}{named}{read}"
        )


def run(config: PublishConfig, beam_flags: list[str]) -> Published | None:
    """Runs the job; returns what is published, or None if a remote runner goes on with it."""
    _refuse_names(beam_flags)
    options = job.parse_options(beam_flags, config)
    ours = publication.prepare(config.dataset, config.destination, config.publisher)

    def is_complete() -> bool:
        return publication.is_complete(ours) and (config.alias is None or aliases.named(ours, config.alias))

    if publication.is_complete(ours) and copying.is_whole(ours):
        log.info("%s is complete already: nothing to do", ours.directory)
        if config.alias is not None:
            aliases.move(ours, config.alias)
    else:
        publication.claim_version(ours)
        if not job.run(lambda pipeline: build(pipeline, ours, config.alias), options, is_complete):
            return None
    return Published(ours.directory, manifests.read(ours.directory), config.alias)


def _refuse_names(flags: list[str]) -> None:
    """Explains why two flags that anyone would try are not there."""
    for flag in flags:
        if flag.partition("=")[0] in ("--name", "--version"):
            raise ConfigError(
                f"{flag!r} is no flag of publish: a dataset's name and version are in its files. Set them where it is "
                "made, with --name and --version of `superbatch curate` or `ingest`"
            )


def build(pipeline: beam.Pipeline, ours: Publication, alias: str | None) -> None:
    """Adds the whole job to a pipeline."""
    begun = pipeline | "Begin" >> beam.Create([ours])
    copied = (
        begun
        | "List shards" >> beam.FlatMap(list_shards)
        | "Spread shards" >> beam.Reshuffle()
        | "Copy shards" >> beam.Map(lambda task: copy_shard(ours, task))
    )
    published = (
        {"begun": begun, "copied": copied}  # one of them for a dataset without shards
        | "Gather results" >> Gather()
        | "Copy other files and the manifest" >> beam.Map(lambda found: copying.complete(ours, found["copied"]))
    )
    if alias is not None:
        _ = published | "Move the alias" >> beam.Map(lambda _: aliases.move(ours, alias))


@dataclass(frozen=True)
class ShardTask:
    """A shard to copy; it is one of so many, with so many rows in all."""

    shard: manifests.Shard
    shards: int
    rows: int


def list_shards(ours: Publication) -> Iterable[ShardTask]:
    """Lists the shards where they are copied: what a runner is told of a job does not grow with them."""
    _, manifest = publication.read_source(ours)
    log.info("publish: %d rows in %d shards to %s", manifest.rows, len(manifest.shards), ours.directory)
    return [ShardTask(shard, len(manifest.shards), manifest.rows) for shard in manifest.shards]


def copy_shard(ours: Publication, task: ShardTask) -> Copied:
    """Copies one shard, or takes up the one that an earlier attempt has copied."""
    tracked = progress.of(STAGE, ours.directory, "shard", task.shards, task.rows)
    copied = copying.copy_file(ours, task.shard)
    tracked.finish_part(taken_up=task.shard.rows if copied.adopted else None)
    if line := tracked.count(0 if copied.adopted else task.shard.rows):
        log.info("%s", line)
    log.info("publish: %s, %d bytes%s", copied.name, task.shard.bytes, " (was there)" if copied.adopted else "")
    return copied


Config = PublishConfig

if __name__ == "__main__":
    job.main("publish")
