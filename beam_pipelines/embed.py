"""`superbatch embed`: a reference model's embeddings of a corpus, row for row.

    corpus shards ─ decode, embed in fixed batches ─► embedding shards of the same names ─► metadata, manifest

The unit of work is a shard: a worker embeds one in order and commits it, so alignment and idempotence come for free
and a retry redoes one shard. A row that cannot be embedded becomes an explicit invalid row, never a shorter shard.
"""

import itertools
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import apache_beam as beam
import numpy as np
from apache_beam.metrics.metric import Metrics
from apache_beam.utils.shared import Shared

from beam_pipelines import job, progress
from beam_pipelines.completion import Gather, ShardResult, complete_dataset
from schemas import job_config, records, rejections, shards, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, IntegrityError
from schemas.job_config import content
from trainer import model as models
from trainer import tokenizer

STAGE = "embed"
MILLISECONDS = "milliseconds a shard"  # a distribution on the runner's page
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Cache a reference model's embeddings of a corpus, aligned with it row by row."""

    corpus: str
    """directory of the corpus"""
    reference: str
    """workdir of a finished reference model, or a big_vision SigLIP checkpoint (.npz)"""
    output: str
    """directory of the embeddings to make"""
    preset: str | None = None
    """of an .npz: the size of its towers: nano, tiny, S/16, B/16, L/16, So400m/14"""
    resolution: int | None = None
    """of an .npz: pixels a side that it was made for"""
    tokenizer: str | None = None
    """of an .npz: the SentencePiece model file that it was trained with"""
    decoder: str | None = None
    """of an .npz: how it saw images: big_vision (not antialiased; the default) or antialiased (as here)"""
    name: str | None = None
    """name recorded in the manifest; the corpus's if not given"""
    version: str = "1.0.0"
    """version recorded in the manifest"""
    dtype: Literal["float16", "bfloat16", "float32"] = content("float16")
    """type of the stored vectors"""
    batch_size: int = 256
    """rows embedded at a time; the last batch of a shard is padded"""
    workers: int = 2
    """threads that read and decode, while the model embeds the batch before"""
    max_rejected_fraction: float = 0.05
    """the job fails if a larger share of rows cannot be embedded"""

    def __post_init__(self) -> None:
        manifests.check_version(self.version)
        for field in ("batch_size", "workers"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise ConfigError(f"max_rejected_fraction is {self.max_rejected_fraction}; it must lie in [0, 1]")
        _ = self.source  # checks that an .npz comes with what it needs

    @property
    def source(self) -> models.Source:
        """The reference."""
        return models.Source(self.reference, self.preset, self.resolution, self.tokenizer, self.decoder)


@dataclass(frozen=True)
class ShardTask:
    """One corpus shard to embed."""

    index: int
    shard: manifests.Shard


def run(config: EmbedConfig, beam_flags: list[str]) -> manifests.Manifest | None:
    """Runs the job; returns the embeddings' manifest, or None if a remote runner goes on with it."""
    options = job.parse_options(beam_flags, config)
    corpus = manifests.read(config.corpus, kind="corpus")
    parents = [manifests.as_parent("corpus", config.corpus, corpus), config.source.as_parent("reference")]
    job.refuse_overlap("output", config.output, {parent.role: parent.path for parent in parents})
    identity = job_config.content_fields(config)
    if (done := _finished(config, parents)) is not None:
        log.info("%s is complete already: nothing to do", config.output)
        return done
    if (done := job.claim(config.output, "embeddings", config, identity, parents)) is not None:
        return done
    log.info("embed: %d rows in %d shards", corpus.rows, len(corpus.shards))

    def is_complete() -> bool:
        return _finished(config, parents) is not None

    if not job.run(lambda pipeline: build(pipeline, config, corpus, parents), options, is_complete):
        return None
    return manifests.read(config.output, kind="embeddings")


def build(
    pipeline: beam.Pipeline, config: EmbedConfig, corpus: manifests.Manifest, parents: list[manifests.Parent]
) -> None:
    """Adds the whole job to a pipeline."""
    tasks = [ShardTask(index, shard) for index, shard in enumerate(corpus.shards)]
    embedded = (
        pipeline
        | "List corpus shards" >> beam.Create(tasks)
        | "Spread shards" >> beam.Reshuffle()
        | "Embed shards" >> beam.ParDo(EmbedShards(config, corpus))
    )
    _ = (
        {"written": embedded}
        | "Gather results" >> Gather()
        | "Write metadata and manifest"
        >> beam.Map(lambda found: complete(config, corpus=corpus, parents=parents, **found))
    )


class EmbedShards(beam.DoFn):
    """Loads the reference once for a process, whose threads share it; embeds and commits one shard at a time."""

    def __init__(self, config: EmbedConfig, corpus: manifests.Manifest):
        self._config, self._shards, self._rows = config, len(corpus.shards), corpus.rows
        self._shared = Shared()
        self._seconds = Metrics.distribution(STAGE, MILLISECONDS)

    def setup(self) -> None:
        """Loads the reference, unless another thread of this process has it."""
        self._model = self._shared.acquire(self._config.source.load)

    def process(self, task: ShardTask) -> Iterator[ShardResult]:
        """Embeds a shard."""
        begin = time.monotonic()
        tracked = progress.of(STAGE, self._config.output, "shard", self._shards, self._rows)
        yield embed_shard(self._config, self._model, task, tracked)
        self._seconds.update(round(1000 * (time.monotonic() - begin)))


def embed_shard(config: EmbedConfig, model: models.Model, task: ShardTask, tracked: progress.Progress) -> ShardResult:
    """Embeds and commits one shard, or takes up the one that an earlier attempt committed."""
    source = storage.as_path(config.corpus) / task.shard.name
    target = storage.as_path(config.output) / task.shard.name
    if target.exists():
        uids = [records.record_uid(row) for row in shards.read_all(source, task.shard.rows)]
        shard = shards.adopt_shard(target, uids=uids)
        rows = shards.read_all(target, task.shard.rows)
        invalid = sum(not records.decode_embedding(row).valid for row in rows)
        tracked.finish_part(taken_up=shard.rows)
        return _result(task, shard, model, invalid)
    failed: list[rejections.Rejection] = []
    written = shards.write_shard(target, _embed_rows(config, model, task, failed, tracked))
    tracked.finish_part()
    log.info("embed: shard %d written, %d rows, %d invalid", task.index, written.shard.rows, len(failed))
    return _result(task, written.shard, model, len(failed))


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a shard, ready for the model: always of the full size, the last one filled up."""

    first: int
    examples: list[records.Example]
    pixels: np.ndarray  # uint8 [batch_size, r, r, 3]
    tokens: np.ndarray  # int32 [batch_size, length]
    problems: list[str | None]  # of each example; None where its image was decoded


def read_batches(config: EmbedConfig, model: models.Model, task: ShardTask) -> Iterator[Batch]:
    """Reads and decodes a shard, one batch ahead of whoever takes them: the model works in the meantime."""
    source = storage.as_path(config.corpus) / task.shard.name
    size, resolution = config.batch_size, model.architecture.resolution

    def decode(place: int, image: bytes, pixels: np.ndarray) -> str | None:
        try:
            pixels[place] = model.decode(image)
        except OSError as error:
            return str(error)
        return None

    with (
        shards.ShardReader(source, task.shard.rows) as reader,
        ThreadPoolExecutor(config.workers, "decode") as decoders,
        ThreadPoolExecutor(1, "read ahead") as ahead,
    ):

        def prepare(first: int) -> Batch:
            rows = reader.read_range(first, min(first + size, task.shard.rows))
            examples = [records.decode_example(row) for row in rows]
            pixels = np.zeros((size, resolution, resolution, 3), np.uint8)
            problems = decoders.map(decode, range(len(examples)), (e.image for e in examples), itertools.repeat(pixels))
            tokens = np.full((size, model.tokenizer.length), tokenizer.END, np.int32)
            tokens[: len(examples)] = model.tokenizer([e.text for e in examples])
            return Batch(first, examples, pixels, tokens, list(problems))

        upcoming = ahead.submit(prepare, 0)
        for following in range(size, task.shard.rows + size, size):
            batch = upcoming.result()
            if following < task.shard.rows:
                upcoming = ahead.submit(prepare, following)
            yield batch


def _embed_rows(
    config: EmbedConfig,
    model: models.Model,
    task: ShardTask,
    failed: list[rejections.Rejection],
    tracked: progress.Progress,
) -> Iterator[bytes]:
    for batch in read_batches(config, model, task):
        image, text = model.embed(batch.pixels, batch.tokens)
        zeros = np.zeros_like(image[0])
        finite = np.isfinite(image.sum(axis=1) + text.sum(axis=1))
        before = len(failed)
        for place, (example, problem) in enumerate(zip(batch.examples, batch.problems, strict=True)):
            if problem is None and not finite[place]:
                problem = "the reference gives no finite embedding"
            if problem is not None:
                failed.append(_failure(example, task, batch.first + place, problem))
            yield records.encode_embedding(
                records.Embedding(
                    uid=example.uid,
                    valid=problem is None,
                    image_embedding=records.pack_vector(image[place] if problem is None else zeros, config.dtype),
                    text_embedding=records.pack_vector(text[place] if problem is None else zeros, config.dtype),
                )
            )
        if line := tracked.count(len(batch.examples), (f.reason for f in failed[before:])):
            log.info("%s", line)
    if failed:  # before the shard is committed: a shard that stands has its rejections beside it
        rejections.write(
            storage.as_path(config.output) / rejections.DIRECTORY / f"part-{task.index:05d}.parquet", failed
        )


def complete(
    config: EmbedConfig, *, corpus: manifests.Manifest, parents: list[manifests.Parent], written: list[ShardResult]
) -> manifests.Manifest:
    """The last step: counts, the rejected-share check, the tokenizer, TFDS metadata, the manifest."""
    done = _finished(config, parents)
    if done is not None:  # by another attempt
        return done
    if corpus.dataset is None:
        raise IntegrityError(f"{config.corpus}: the manifest of a corpus lacks its `dataset` section")
    invalid = sum(result.rejected for result in written)
    kept = sum(result.shard.rows for result in written) - invalid
    rejected = {rejections.Reason.NOT_EMBEDDED: invalid} if invalid else {}
    counts = manifests.Counts(read=corpus.rows, kept=kept, rejected=rejected)
    job.check_rejected(counts, config.max_rejected_fraction)
    facts = written[0].facts
    storage.replace(storage.as_path(config.output) / tokenizer.FILE_NAME, config.source.tokenizer_file.read_bytes())
    return complete_dataset(
        config.output, corpus.dataset, written, row_kind="embeddings", expected_shards=len(corpus.shards),
        extra_files=(tokenizer.FILE_NAME,),
        kind="embeddings", name=config.name or corpus.name, version=config.version, config=config, parents=parents,
        counts=counts, embeddings=manifests.EmbeddingInfo(**facts, dtype=config.dtype),
    )  # fmt: skip


def _finished(config: EmbedConfig, parents: list[manifests.Parent]) -> manifests.Manifest | None:
    return job.finished(config.output, "embeddings", config, job_config.content_fields(config), parents)


def _result(task: ShardTask, shard: manifests.Shard, model: models.Model, invalid: int) -> ShardResult:
    """Every shard's result carries what the manifest says of the reference, since only workers load it."""
    width = models.presets.get(model.architecture.preset).embedding
    facts = {
        "image_width": width,
        "text_width": width,
        "scale": model.scale,
        "bias": model.bias,
        "decoder": model.architecture.decoder,
        "reference": model.info,
        "tokenizer_file": tokenizer.FILE_NAME,
    }
    return ShardResult(task.index, shard, rejected=invalid, facts=facts)


def _failure(example: records.Example, task: ShardTask, row: int, detail: str) -> rejections.Rejection:
    source = f"{task.shard.name}[{row}] {example.uid}"
    return rejections.Rejection(source=source, stage=STAGE, reason=rejections.Reason.NOT_EMBEDDED, detail=detail)


Config = EmbedConfig

if __name__ == "__main__":
    job.main("embed")
