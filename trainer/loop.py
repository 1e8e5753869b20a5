"""The loop of `superbatch train` and `superbatch distill`: set up or resume, step, log, checkpoint, complete.

Enters: a config. Leaves: a workdir with `checkpoints/`, `metrics.jsonl`, `config.json`, the tokenizer and, from
distill, `selections/`; its manifest is written last.

Several processes may share a run: each reads its part of every super-batch and runs the same steps; the first one
writes what all share.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from schemas import manifest as manifests
from schemas import shards, storage
from schemas.errors import ConfigError, DataError, Stopped
from trainer import cached_reference, evaluate, flops, parallel, workdir
from trainer import model as models
from trainer.checkpoint import CHECKPOINTS, Checkpoints
from trainer.config import DistillConfig, TrainConfig
from trainer.data import BlockLoader, Blocks, PickDecoder, Rows, iterate
from trainer.decode import ANTIALIASED
from trainer.metrics import Metrics
from trainer.profiling import Profiler
from trainer.selection import PairEmbeddings
from trainer.selections_log import SelectionsLog
from trainer.step import (
    Candidates,
    Part,
    Program,
    Scored,
    TrainState,
    distill_step,
    divide,
    initial_state,
    learn_step,
    pick_step,
)
from trainer.stopping import stop_requests
from trainer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def run(config: TrainConfig) -> manifests.Manifest:
    """Trains to the last step, going on from the newest checkpoint if there is one.

    Returns:
      The manifest of the finished model. If the workdir holds it already, nothing is done.

    Raises:
      ConfigError: the workdir belongs to a run with other settings, or devices cannot share what they have to.
      IntegrityError: corpus, embeddings or reference do not belong together.
      DataError: an input is missing, or training diverged.
      Stopped: SIGTERM asked for it; the run is saved.
    """
    if config.distributed:
        parallel.start_processes()
    corpus = manifests.read(config.corpus, kind="corpus")
    parents = [manifests.as_parent("corpus", config.corpus, corpus)]
    embeddings = None
    if isinstance(config, DistillConfig):
        embeddings = cached_reference.check(config, corpus)
        parents.append(manifests.as_parent("embeddings", config.embeddings, embeddings))
    done = workdir.finished(config, parents)
    if done is not None:
        log.info("%s is complete already: nothing to do", config.workdir)
        return done
    with stop_requests() as stop:
        prepared = _set_up(config, corpus, embeddings, parents)
        state = prepared.steps(stop)
        parameters = prepared.program.layout.to_host(state.parameters)
        with parallel.primary_first():
            if parallel.is_primary():
                prepared.complete(parameters)
    return manifests.read(config.workdir, kind="model")


def _set_up(
    config: TrainConfig,
    corpus: manifests.Manifest,
    embeddings: manifests.Manifest | None,
    parents: list[manifests.Parent],
) -> "_Run":
    """Finds everything that can be wrong with the settings, and only then claims the workdir."""
    if config.weighted and corpus.config.get("policy") != "weighted":
        raise ConfigError(
            f"weighted needs rows with weights, and {config.corpus} has none: curate it with --policy=weighted"
        )
    layout = _layout(config)
    reference, decoder = None, ANTIALIASED
    if isinstance(config, DistillConfig) and embeddings is not None:
        reference = cached_reference.open_cached(config, embeddings)
        decoder = reference.info.decoder  # learner and reference see the same pixels
    scored_pixels = config.scored_pixels if isinstance(config, DistillConfig) else config.pixels
    per_step = config.superbatch_size // config.block_size
    evaluation = _evaluation(config)
    labels = None if evaluation is None else evaluate.read_labels(evaluation)
    if config.evaluation is not None:
        manifests.read(config.evaluation, kind="corpus")
    with parallel.primary_first():
        tokens = workdir.find_tokenizer(config, corpus, embeddings)
        architecture = models.Architecture(config.preset, config.pixels, tokens.vocabulary, decoder=decoder)
        graph, parameters = architecture.build(config.seed)
        loader = BlockLoader(
            corpus=shards.open_dataset(config.corpus, corpus),
            blocks=Blocks(corpus.rows, config.block_size, per_step, config.seed, rotate=reference is None),
            tokenizer=tokens,
            resolution=scored_pixels,
            decoder=decoder,
            reference=reference,
            keep_encoded=scored_pixels != config.pixels,
            weighted=config.weighted,
            augment=config.augment,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        if parallel.is_primary():
            workdir.claim(config, parents, architecture, tokens)
    program = program_of(config, graph, layout)
    state = layout.place_parameters(initial_state(parameters, config.optimisation))
    return _Run(config, program, architecture, tokens, loader, parents, evaluation, labels, state)


def _evaluation(config: TrainConfig) -> evaluate.EvaluateConfig | None:
    given = config.evaluation, config.evaluation_labelled, config.evaluation_shots_from
    if not any(given):
        return None
    corpus, labelled, shots_from = given
    return evaluate.EvaluateConfig(checkpoint=config.workdir, corpus=corpus, labelled=labelled, shots_from=shots_from)


def _layout(config: TrainConfig) -> parallel.Layout:
    shared = {"batch_size": config.batch_size}
    if isinstance(config, DistillConfig):
        shared["the super-batch (batch_size / (1 − filter_ratio))"] = config.superbatch_size
        if config.flexi and jax.device_count() > 1:
            shared["half of batch_size (flexi)"] = config.batch_size // 2
    return parallel.layout(shard_parameters=config.shard_parameters, shared=shared)


def program_of(config: TrainConfig, graph: Any, layout: parallel.Layout) -> Program:
    """The program of this run's steps, on these towers and devices."""
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    selecting = {"selection": config.selection, "scoring": config.scoring} if isinstance(config, DistillConfig) else {}
    return Program(graph=graph, optimisation=config.optimisation, layout=layout, dtype=dtype, **selecting)


@dataclass
class _Run:
    """A run that is set up: what it needs from its first step to its last."""

    config: TrainConfig
    program: Program
    architecture: models.Architecture
    tokens: Tokenizer
    loader: BlockLoader
    parents: list[manifests.Parent]
    evaluation: evaluate.EvaluateConfig | None
    labels: evaluate.Labels | None
    state: TrainState

    def __post_init__(self) -> None:
        self._key = jax.random.key(self.config.seed)
        self._selections = None
        if isinstance(self.config, DistillConfig) and parallel.is_primary():
            self._selections = SelectionsLog(
                str(storage.as_path(self.config.workdir) / "selections"), self.config.steps_per_part, self.config.steps
            )
        self._pick_decoder = None
        if self.loader.keep_encoded:
            self._pick_decoder = PickDecoder(self.loader, self.config.pixels, self.config.workers)

    def steps(self, stop: Callable[[int], bool]) -> TrainState:
        """Runs every step that is left."""
        config = self.config
        checkpoints = Checkpoints(str(storage.as_path(config.workdir) / CHECKPOINTS))
        first = self._resume(checkpoints)
        width = 0 if self.loader.reference is None else self.loader.reference.info.image_width
        measured = flops.measured_step(config, self.program, self.architecture, width)
        metrics = Metrics(config, first, flops.Operations(flops.step(config, self.architecture), measured))
        waiting = iterate(self.loader, first, config.steps, config.workers, config.worker_processes)
        profiler = Profiler(config, first)
        try:
            with parallel.failing_together():
                self._run_steps(first, waiting, checkpoints, metrics, profiler, stop)
        finally:
            waiting.close()
            gc.collect()  # gives back the memory shared with reading processes while Python can still do so
            profiler.close()
            metrics.close()
            checkpoints.close()
        return self.state

    def _run_steps(
        self,
        first: int,
        waiting: Iterator[Rows],
        checkpoints: Checkpoints,
        metrics: Metrics,
        profiler: Profiler,
        stop: Callable[[int], bool],
    ) -> None:
        config, before = self.config, None
        for step in range(first, config.steps):
            with metrics.phase("input"):
                rows = next(waiting)
            with metrics.phase("dispatch"), profiler.step(step):
                loss, scored = self._step(step, rows)
            # The step before is logged while the devices are at this one.
            self._log(metrics, before)
            before = step, loss, scored
            last, stopping = step + 1 == config.steps, stop(step)
            if last or stopping or self._due(step, config.checkpoint_every):
                self._log(metrics, before)
                before = None
                with metrics.phase("checkpoint"):
                    metrics.save()
                    checkpoints.save(step + 1, self.state, self._selections.open_rows() if self._selections else {})
            if self.evaluation is not None and (last or self._due(step, config.evaluate_every)):
                with metrics.phase("evaluate"):
                    metrics.evaluated(step, self._evaluate(self.evaluation))
            if stopping and not last:
                raise Stopped(
                    f"stopped by SIGTERM after step {step + 1} of {config.steps}; everything is saved in "
                    f"{config.workdir}: run the same command again to go on"
                )

    def complete(self, parameters: Any) -> None:
        """Writes the manifests of the selections and of the model."""
        config = self.config
        if self._selections is not None:
            offered = config.superbatch_size * config.steps
            self._selections.finish(config, config.name, config.version, self.parents, offered)
        workdir.complete(config, self.architecture, parameters, self.tokens, self.parents)

    def _resume(self, checkpoints: Checkpoints) -> int:
        restored = checkpoints.restore(self.state)
        if restored is None:
            return 0
        self.state = restored.state
        if self._selections is not None:
            self._selections.restore(restored.open_rows)
        log.info("resumed at step %d of %d", restored.step, self.config.steps)
        return restored.step

    def _step(self, step: int, rows: Rows) -> tuple[jax.Array, Scored | None]:
        """Runs a step; its results are on their way when this returns."""
        layout, program = self.program.layout, self.program
        if not isinstance(self.config, DistillConfig):
            part = Part(*layout.place_batch((rows["image"], rows["tokens"])))
            weight = layout.place_batch(rows["weight"]) if "weight" in rows else None
            self.state, loss = learn_step(program, self.state, [part], weight)
            return loss, None
        candidates = self._place(rows)
        if self._pick_decoder is None:
            self.state, loss, scored = distill_step(program, self.state, self._key, candidates)
            return loss, scored
        scored, tokens = pick_step(program, self.state, self._key, candidates)
        index = np.asarray(scored.picks.index)
        parts = []
        for part, of_part in zip(divide(program.scoring, index), tokens, strict=True):
            images = self._pick_decoder(step, rows, part[layout.own_rows(len(part))])
            parts.append(Part(layout.place_batch(images), of_part))
        self.state, loss = learn_step(program, self.state, parts)
        return loss, scored

    def _place(self, rows: Rows) -> Candidates:
        """Sends this process's candidates to its devices."""
        if self.loader.reference is None or "reference_image" not in rows or "reference_text" not in rows:
            raise ValueError("distill reads a reference's embeddings, and its loader has none")
        uid = np.frombuffer(bytes.fromhex("".join(rows["uid"])), np.uint8).reshape(-1, 16)
        image, tokens, uid, valid, *vectors = self.program.layout.place_batch(
            (
                rows["image"], rows["tokens"], uid, rows["valid"],
                rows["reference_image"], rows["reference_text"],
            )
        )  # fmt: skip
        info = self.loader.reference.info
        reference = PairEmbeddings(*vectors, scale=jnp.float32(info.scale), bias=jnp.float32(info.bias))
        return Candidates(image, tokens, uid, valid, reference)

    def _log(self, metrics: Metrics, done: tuple[int, jax.Array, Scored | None] | None) -> None:
        """Waits for a step's results, checks them and writes them down."""
        if done is None:
            return
        step, loss, scored = done
        with metrics.phase("compute"):
            scored = jax.device_get(scored)
        if scored is not None:
            self._check(step, scored)
            with metrics.phase("log"):
                if self._selections is not None:
                    blocks = self.loader.blocks
                    self._selections.add(step, blocks.rows_of_step(step), blocks.of_step(step), scored)
        metrics.add(step, loss, scored)

    def _check(self, step: int, scored: Scored) -> None:
        config = self.config
        assert isinstance(config, DistillConfig)
        if scored.usable < config.batch_size:
            raise DataError(
                f"step {step}: {scored.usable} of {config.superbatch_size} candidates have valid embeddings and "
                f"{config.batch_size} picks are wanted: raise filter_ratio, or see the rejections of "
                f"{config.embeddings}"
            )
        if not scored.finite:
            raise DataError(
                f"step {step}: a candidate's score is not finite: the learner diverged (lower learning_rate), or the "
                f"embeddings in {config.embeddings} are damaged (superbatch verify tells)"
            )

    def _evaluate(self, evaluation: evaluate.EvaluateConfig) -> dict[str, float]:
        """What the model as it is now is worth; the first process measures it, on one device."""
        parameters = self.program.layout.to_host(self.state.parameters)
        if not parallel.is_primary():
            return {}
        model = models.assemble(self.architecture, self.program.graph, parameters, self.tokens)
        return evaluate.measure(model, evaluation, self.labels)

    @staticmethod
    def _due(step: int, every: int) -> bool:
        return (step + 1) % every == 0
