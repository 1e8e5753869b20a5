"""`superbatch export`: a dataset or a model in the form that other programs read.

    dataset shards ─ each into one file of the format ─► files ─► what goes over all of them, card, manifest

Formats of datasets are in `beam_pipelines/exports/`, one file each. An export is an artifact, complete or absent; two
exports of one dataset are equal, byte for byte. A model (`--format=big_vision`) becomes one file, without Beam and
without a manifest (`beam_pipelines/export_model.py`).
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import apache_beam as beam

from beam_pipelines import completion, exports, job, progress
from beam_pipelines.completion import Gather, ShardResult
from beam_pipelines.exports import card, commit
from beam_pipelines.rights import Rights
from schemas import features, job_config, shards, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, IntegrityError
from schemas.job_config import content

STAGE = "export"
_READ_ROWS = 256
_FILE_ENDINGS = (".npz", ".npy", ".tar", ".parquet")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a dataset, or a model, in the form that other programs read."""

    format: Literal["tfrecord", "webdataset", "uids", "parquet", "big_vision"] = content()
    """of a dataset: tfrecord (TFDS for tf.data), webdataset (tars for open_clip), uids (DataComp's npy) or parquet (all
    but the images); of a model: big_vision"""
    output: str
    """directory to make; of a model, the file (FILE.npz; its tokenizer is FILE.tokenizer.model)"""
    dataset: str | None = None
    """directory of a curated dataset or any other corpus"""
    checkpoint: str | None = None
    """of format big_vision: workdir of a finished `train` or `distill`"""
    name: str | None = None
    """of a dataset: the name in its files' names, letters, digits and _; its own if not given"""
    version: str | None = None
    """of a dataset: three numbers such as 1.0.0; its own if not given"""

    def __post_init__(self) -> None:
        if self.format == "big_vision":
            self._check_model()
        else:
            self._check_dataset()

    def _check_model(self) -> None:
        for field in ("dataset", "name", "version"):
            if (value := getattr(self, field)) is not None:
                raise ConfigError(
                    f"{field} is {value!r}, and format big_vision is of a model: name its workdir with --checkpoint, "
                    f"without --{field}; or choose another format ({', '.join(get_args(exports.DatasetFormat))})"
                )
        if self.checkpoint is None:
            raise ConfigError("format is 'big_vision', which is of a model: name its workdir with --checkpoint")
        if storage.is_npz(self.checkpoint):
            raise ConfigError(
                f"checkpoint is {self.checkpoint!r}, which is a big_vision checkpoint already: give the workdir of a "
                "finished `train` or `distill`"
            )
        if not storage.is_npz(self.output):
            raise ConfigError(f"output is {self.output!r}; format {self.format} makes one file, FILE.npz")

    def _check_dataset(self) -> None:
        if self.checkpoint is not None:
            raise ConfigError(
                f"checkpoint is {self.checkpoint!r}, and format {self.format} is of a dataset: name its directory with "
                "--dataset, without --checkpoint; or choose format big_vision"
            )
        if self.dataset is None:
            raise ConfigError(f"format is {self.format!r}, which is of a dataset: name its directory with --dataset")
        if self.output.endswith(_FILE_ENDINGS):
            raise ConfigError(f"output is {self.output!r}; format {self.format} makes a directory")
        job.refuse_overlap("output", self.output, {"dataset": self.dataset})
        if self.name is not None:
            manifests.check_dataset_name("name", self.name)
        if self.version is not None:
            manifests.check_version(self.version)


@dataclass(frozen=True, kw_only=True)
class RecordedConfig(ExportConfig):
    """What an export's manifest records: name, version and rights are those that its dataset gave."""

    license: str | None = None
    homepage: str | None = None
    attribution: str | None = None
    published: str | None = None


@dataclass(frozen=True, kw_only=True)
class Export:
    """A dataset's export as every worker knows it."""

    config: RecordedConfig
    format: exports.DatasetFormat
    dataset: exports.Dataset
    parents: list[manifests.Parent]

    def finished(self) -> manifests.Manifest | None:
        """Its manifest, if this very export is complete. Raises ConfigError if another one is there."""
        return job.finished(self.config.output, "export", self.config, self._identity, self.parents)

    def claim(self) -> manifests.Manifest | None:
        """Marks the directory; see `job.claim`."""
        return job.claim(self.config.output, "export", self.config, self._identity, self.parents)

    @property
    def _identity(self) -> list[str]:
        rights = [field.name for field in dataclasses.fields(Rights)]
        return ["name", "version", *job_config.content_fields(self.config), *rights]


def run(config: ExportConfig, beam_flags: Sequence[str] = ()) -> Any:
    """Runs the job; returns the export's manifest, or None if a remote runner goes on with it; of a model, what was
    exported.
    """
    options = job.parse_options(list(beam_flags), config)
    if config.format == "big_vision":
        if beam_flags:
            raise ConfigError(f"{beam_flags[0]} is a flag of Beam, which format big_vision is written without")
        from beam_pipelines import export_model  # with jax, which no worker needs

        return export_model.run(config.checkpoint or "", config.output)
    export, tasks = plan(config, config.format)
    if (done := export.finished()) is not None:
        log.info("%s is complete already: nothing to do", config.output)
        return done
    if (done := export.claim()) is not None:
        return done
    log.info("export: %d rows in %d shards as %s", export.dataset.rows, len(tasks), config.format)
    if not job.run(lambda pipeline: build(pipeline, export, tasks), options, lambda: export.finished() is not None):
        return None
    return manifests.read(config.output, kind="export")


def plan(config: ExportConfig, of: exports.DatasetFormat) -> tuple[Export, list[exports.Task]]:
    """Reads the dataset's manifest; returns what is to be made of it, and of which shards.

    Raises:
      DataError: there is no complete dataset.
      IntegrityError: it is another artifact, or damaged.
    """
    directory = config.dataset or ""
    corpus = manifests.read(directory, kind="corpus")
    if corpus.dataset is None:
        raise IntegrityError(f"{directory}: the manifest of a corpus lacks its `dataset` section")
    name, version = config.name or corpus.dataset.name, config.version or corpus.version
    for field, value in (("name", name), ("split", corpus.dataset.split)):  # they name files, and stand in code
        manifests.check_dataset_name(field, value)
    manifests.check_version(version)
    rights = Rights.recorded(directory, corpus.config)
    dataset = exports.Dataset(
        directory=directory,
        info=manifests.DatasetInfo(name=name, split=corpus.dataset.split),
        version=version,
        row_kind=features.row_kind(directory),
        shards=len(corpus.shards),
        rows=corpus.rows,
        origin=exports.Origin(name=corpus.name, version=corpus.version, fingerprint=corpus.fingerprint, rights=rights),
    )
    export = Export(
        config=RecordedConfig(**{**vars(config), **vars(rights), "name": name, "version": version}),
        format=of,
        dataset=dataset,
        parents=[manifests.as_parent("dataset", directory, corpus)],
    )
    tasks, first = [], 0
    for index, shard in enumerate(corpus.shards):
        tasks.append(exports.Task(index, shard, first))
        first += shard.rows
    return export, tasks


def build(pipeline: beam.Pipeline, export: Export, tasks: list[exports.Task]) -> None:
    """Adds the whole job to a pipeline."""
    written = (
        pipeline
        | "List dataset shards" >> beam.Create(tasks)
        | "Spread shards" >> beam.Reshuffle()
        | "Export shards" >> beam.Map(lambda task: export_shard(export, task))
    )
    _ = (
        {"written": written}
        | "Gather results" >> Gather()
        | "Write metadata and manifest" >> beam.Map(lambda found: complete(export, found["written"]))
    )


def export_shard(export: Export, task: exports.Task) -> ShardResult:
    """Writes and commits what becomes of one shard, or takes up what an earlier attempt committed."""
    output, to = storage.as_path(export.config.output), exports.of(export.format)
    name = to.shard_name(export.dataset, task.index)
    receipt = output / job.WORK_DIRECTORY / f"shard-{task.index:05d}.json"
    tracked = progress.of(STAGE, export.config.output, "shard", export.dataset.shards, export.dataset.rows)
    if (found := commit.take_up(output / name, receipt)) is not None:
        tracked.finish_part(taken_up=found.rows)
        return ShardResult(task.index, found)
    for beside, small in to.beside(name, task.shard.rows).items():  # a shard that stands has its files beside it
        storage.replace(output / beside, small)
    shard = commit.commit_once(
        output / name, task.shard.rows, lambda path: to.write(path, export.dataset, task, _rows(export, task, tracked))
    )
    commit.leave_receipt(receipt, shard)
    tracked.finish_part()
    log.info("export: shard %d of %d written, %d rows", task.index + 1, export.dataset.shards, shard.rows)
    return ShardResult(task.index, shard)


def complete(export: Export, written: list[ShardResult]) -> manifests.Manifest:
    """The last step: what goes over all shards, and the manifest."""
    done = export.finished()
    if done is not None:  # by another attempt
        return done
    config, dataset = export.config, export.dataset
    in_order = completion.in_order(config.output, written, dataset.shards)
    data, others = exports.of(export.format).complete(config.output, dataset, in_order)
    storage.replace(storage.as_path(config.output) / card.FILE_NAME, card.render(export.format, dataset))
    others = [*others, *manifests.describe_files(config.output, [card.FILE_NAME])]
    return completion.commit(
        config.output,
        kind="export", name=dataset.info.name, version=dataset.version, config=config, parents=export.parents,
        counts=manifests.Counts(read=dataset.rows, kept=sum(shard.rows for shard in data)), shards=data, files=others,
        dataset=dataset.info if export.format == "tfrecord" else None,
    )  # fmt: skip


def _rows(export: Export, task: exports.Task, tracked: progress.Progress) -> Iterator[bytes]:
    path = storage.as_path(export.dataset.directory) / task.shard.name
    with shards.ShardReader(path, task.shard.rows) as reader:
        for first in range(0, task.shard.rows, _READ_ROWS):
            piece = reader.read_range(first, min(first + _READ_ROWS, task.shard.rows))
            yield from piece
            if line := tracked.count(len(piece)):
                log.info("%s", line)


Config = ExportConfig

if __name__ == "__main__":
    job.main("export")
