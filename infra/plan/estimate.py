"""From what was measured to what a round costs at any number of rows. Arithmetic only.

Enters: a round's settings, `Facts`, how many raw rows the pool has, and who does the work: this machine, or workers and
devices whose speed is stated. Leaves: for every stage its rows, bytes, seconds, hours and money, and what bounds it.

    here          seconds = cold + fixed + per_row × rows;      steps × seconds of a step
    on a device   seconds of a step = max(FLOPs / (devices × peak × MFU), decoding / host cores)
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from infra.plan import stages
from infra.plan.facts import Facts
from infra.plan.prices import GIB, Device, Prices
from infra.plan.stages import Stage
from infra.stages import Round
from schemas import records
from trainer import flops, presets
from trainer.config import DistillConfig, TrainConfig
from trainer.model import Architecture

TOKENIZER_TEXTS = 50_000  # that `train` reads, at most
_CHECKPOINT = 12  # bytes of a parameter: itself and two moments, float32
_KEPT_CHECKPOINTS = 2
_DATASETS = 3  # that curate writes: the curated one and two controls
_SPOOL_REQUESTS = 2  # to take a shard's rows from one spool: the file's end, the range


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Who does the work elsewhere."""

    device: str
    chip: Device
    devices: int
    mfu: float  # of the peak
    workers: int  # vCPUs of the Beam jobs
    request_seconds: float  # of an object store's answer

    @property
    def flops(self) -> float:
        """Of all devices together, by the second."""
        return self.devices * self.chip.peak_tflops * 1e12 * self.mfu

    @property
    def host_cores(self) -> float:
        """Of all hosts together."""
        return self.devices * self.chip.host_vcpus


@dataclass(frozen=True, kw_only=True)
class Size:
    """A pool of some number of raw rows, and what follows from it."""

    raw: int
    own: bool  # the round's own number
    kept: float
    tasks: float
    budget: float
    distill_steps: int


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes."""

    name: str
    kind: str
    rows: float  # read; of a training, by all its steps
    bytes_in: float
    bytes_out: float  # what stays
    seconds: float
    worker_hours: float  # of vCPUs
    device_hours: float = 0.0
    shuffled: float = 0.0  # bytes
    reads: float = 0.0  # requests to a store
    writes: float = 0.0
    bound: str  # by what
    money: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A round at one size."""

    size: Size
    stages: list[StagePlan]
    stored: float  # bytes
    stored_month: float  # money
    money: float  # of the run, without storage
    capacity: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """One stage after another."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def longest(self) -> StagePlan:
        """Where time goes first."""
        return max(self.stages, key=lambda stage: stage.seconds)


def size_of(settings: Round, facts: Facts, rows: int | None, epochs: float | None, task_rows: int | None) -> Size:
    """What a pool of so many raw rows brings with it; `None` is the round's own.

    At other sizes distill passes over the pool `epochs` times, or as often as the round does.
    """
    raw, distill, budget = facts.raw["pool"], stages.distill(settings), stages.curate(settings).budget
    own_kept = raw.rows * facts.kept["pool"]
    share = budget if budget < 1 else min(1.0, budget / own_kept)
    if rows is None:
        return Size(
            raw=raw.rows, own=True, kept=own_kept, tasks=raw.tasks, budget=share * own_kept, distill_steps=distill.steps
        )
    kept = rows * facts.kept["pool"]
    passes = epochs or distill.steps * distill.superbatch_size / own_kept
    tasks = rows / task_rows if task_rows else raw.tasks * rows / raw.rows
    return Size(
        raw=rows, own=False, kept=kept, tasks=max(1.0, tasks), budget=share * kept,
        distill_steps=max(1, round(passes * kept / distill.superbatch_size)),
    )  # fmt: skip


def scenario(settings: Round, facts: Facts, size: Size, fleet: Fleet | None, prices: Prices) -> Scenario:
    """Plans every stage at one size."""
    planner = _Planner(settings, facts, size, fleet)
    planned = [_priced(planner.plan(stage), fleet, prices) for stage in stages.of(settings)]
    raw = facts.raw["pool"].row_bytes * size.raw
    stored = raw + sum(stage.bytes_out for stage in planned)
    return Scenario(
        size=size, stages=planned, stored=stored, stored_month=stored / GIB * prices.storage.gib_month,
        money=sum(stage.money for stage in planned), capacity=planner.capacity(),
    )  # fmt: skip


def _priced(stage: StagePlan, fleet: Fleet | None, prices: Prices) -> StagePlan:
    device = 0.0 if fleet is None else fleet.chip.hour * stage.device_hours
    requests = stage.reads * prices.storage.reads_per_10000 + stage.writes * prices.storage.writes_per_10000
    shuffle = stage.shuffled / GIB * prices.workers.shuffle_gib
    money = stage.worker_hours * prices.workers.hour + device + requests / 10_000 + shuffle
    return replace(stage, money=money)


class _Planner:
    """One round at one size."""

    def __init__(self, settings: Round, facts: Facts, size: Size, fleet: Fleet | None):
        self._settings, self._facts, self._size, self._fleet = settings, facts, size, fleet
        self._distill = stages.distill(settings)
        self._embedding = _embedding_bytes(settings)

    def plan(self, stage: Stage) -> StagePlan:
        """Plans one stage."""
        if stage.kind == "ingest":
            return self._ingest(stage)
        if stage.kind == "embed":
            return self._embed(stage)
        if stage.kind == "curate":
            return self._curate(stage)
        if stage.kind == "evaluate":
            return self._evaluate(stage)
        return self._train(stage)

    def capacity(self) -> dict[str, Any]:
        """What has to fit somewhere, or to pass through something."""
        size, facts, distill = self._size, self._facts, self._distill
        row, shards = facts.row_bytes["pool"], stages.ingest(self._settings).shards
        candidates, width = distill.superbatch_size, presets.get(distill.preset).embedding
        step = self._step_seconds(distill)[0]
        hosts = 1.0 if self._fleet is None else max(1.0, self._fleet.devices / _DEVICES_PER_HOST)
        length = presets.get(distill.preset).text_length
        sent = candidates * (distill.scored_pixels**2 * 3 + 4 * length + 2 * 4 * width)
        read = candidates * (row + self._embedding)
        picks = size.distill_steps * distill.batch_size
        return {
            "corpus_bytes": size.kept * row,
            "shards": shards,
            "rows_per_shard": size.kept / shards,
            "bytes_per_shard": size.kept * row / shards,
            "shards_of_1_GiB": math.ceil(size.kept * row / GIB),
            "superbatch": candidates,
            "superbatch_read_bytes": read,
            "superbatch_reads": 2 * candidates / distill.block_size,
            "step_seconds": step,
            "hosts": hosts,
            "read_bytes_per_second_per_host": read / step / hosts,
            "device_input_bytes_per_second_per_host": sent / step / hosts,
            "decode_cores": candidates * facts.decode_seconds / step,
            "host_cores": float(facts.cores) if self._fleet is None else self._fleet.host_cores,
            "embeddings_bytes": size.kept * self._embedding,
            "embeddings_vector_bytes": size.kept * 2 * width * _itemsize(self._settings),
            "ingest_shuffle_bytes": self._shuffled(size.raw, size.kept),
            "ingest_graph_bytes": size.tasks * _TASK_BYTES,
            "ingest_spool_requests": size.tasks * shards * _SPOOL_REQUESTS,
            "picks": picks,
            "selections_bytes": picks * facts.choosing.pick_bytes + size.distill_steps * self._blocks * 8,
            "choose_seconds": self._choose_seconds(picks),
            "choose_rows_on_one_worker": max(picks, size.kept),
        }

    # --- Stages -------------------------------------------------------------------------------------------------------

    def _ingest(self, stage: Stage) -> StagePlan:
        facts, corpus = self._facts, stage.corpus or "pool"
        pool = corpus == "pool"
        raw = self._size.raw if pool else facts.raw[corpus].rows
        kept, tasks = raw * facts.kept[corpus], self._size.tasks if pool else facts.raw[corpus].tasks
        shards = stages.ingest(self._settings).shards
        work = facts.ingest.seconds(raw, again=stage.again)
        seconds, bound, hours = work, "this machine", self._hours(work)
        if self._fleet is not None:
            waves = math.ceil(shards / self._fleet.workers)
            gather = waves * tasks * _SPOOL_REQUESTS * self._fleet.request_seconds
            parallel = facts.ingest.per_row * raw / min(self._fleet.workers, tasks)
            seconds, hours = parallel + gather, facts.ingest.per_row * raw / 3600
            hours += tasks * shards * _SPOOL_REQUESTS * self._fleet.request_seconds / 3600
            bound = "requests for spooled rows" if gather > parallel else "checking and writing rows"
        return StagePlan(
            name=stage.name, kind=stage.kind, rows=raw, bytes_in=raw * facts.raw[corpus].row_bytes,
            bytes_out=kept * facts.row_bytes[corpus], seconds=seconds, worker_hours=hours,
            shuffled=self._shuffled(raw, kept), reads=tasks * (1 + shards * _SPOOL_REQUESTS),
            writes=3 * tasks + shards, bound=bound,
        )  # fmt: skip

    def _embed(self, stage: Stage) -> StagePlan:
        facts, rows, model = self._facts, self._size.kept, stages.train(self._settings)
        shards = stages.ingest(self._settings).shards
        work = facts.embed.seconds(rows, again=stage.again)
        seconds, bound, hours, device_hours = work, "this machine", self._hours(work), 0.0
        if self._fleet is not None:
            preset = presets.get(model.preset)
            compute = flops.forward(preset, model.pixels, preset.text_length) * rows / self._fleet.flops
            decoding = rows * facts.decode_seconds / self._fleet.host_cores
            seconds, bound = max((compute, "arithmetic"), (decoding, "decoding on the hosts"))
            hours, device_hours = 0.0, seconds * self._fleet.devices / 3600
        row = facts.row_bytes["pool"]
        return StagePlan(
            name=stage.name, kind=stage.kind, rows=rows, bytes_in=rows * row, bytes_out=rows * self._embedding,
            seconds=seconds, worker_hours=hours, device_hours=device_hours,
            reads=rows / stages.embed(self._settings).batch_size, writes=shards, bound=bound,
        )  # fmt: skip

    def _train(self, stage: Stage) -> StagePlan:
        facts, size, corpus = self._facts, self._size, "pool" if stage.kind == "distill" else "seed"
        config: TrainConfig = self._distill
        rows_held, steps = size.kept, size.distill_steps
        if stage.kind != "distill":
            config = stages.train(self._settings, "train" if stage.kind == "train" else "downstream")
            first = stage.kind == "train" and stage.number == 1
            rows_held = facts.raw["seed"].rows * facts.kept["seed"] if first else size.budget
            corpus, steps = ("seed" if first else "pool"), config.steps
        saves, bound = math.ceil(steps / config.checkpoint_every), "this machine"
        evaluated = config.evaluation is not None or config.evaluation_labelled is not None
        evaluations = math.ceil(steps / config.evaluate_every) if evaluated else 0
        if self._fleet is None:
            measured = facts.training[stage.kind]
            texts = min(rows_held, TOKENIZER_TEXTS)
            seconds = measured.seconds(steps, texts=texts, saves=saves, evaluations=evaluations, again=stage.again)
            hours, device_hours = self._hours(seconds), 0.0
        else:
            step, bound = self._step_seconds(config)
            seconds, hours = steps * step, 0.0
            device_hours = seconds * self._fleet.devices / 3600
        offered = steps * config.superbatch_size
        distilled = stage.kind == "distill"
        read = facts.row_bytes[corpus] + (self._embedding if distilled else 0)
        out = min(saves, _KEPT_CHECKPOINTS) * _CHECKPOINT * _parameters(config)
        if distilled:
            picks = steps * config.batch_size
            out += picks * facts.choosing.pick_bytes + steps * self._blocks * 8
        return StagePlan(
            name=stage.name, kind=stage.kind, rows=offered, bytes_in=offered * read, bytes_out=out, seconds=seconds,
            worker_hours=hours, device_hours=device_hours,
            reads=(1 + distilled) * offered / config.block_size, writes=float(saves), bound=bound,
        )  # fmt: skip

    def _curate(self, stage: Stage) -> StagePlan:
        facts, size = self._facts, self._size
        picks, written = size.distill_steps * self._distill.batch_size, _DATASETS * size.budget
        shards = stages.curate(self._settings).shards
        choose, controls = self._choose_seconds(picks), _DATASETS - 1
        beside = controls * size.kept * (facts.curate.per_keyed + facts.choosing.per_keyed)
        work = facts.curate.seconds(written, again=stage.again) + beside + picks * facts.choosing.per_pick
        seconds, bound, hours = work, "this machine", self._hours(work)
        if self._fleet is not None:
            # Rows written are read one by one; the step that chooses is one worker's, for each dataset.
            fetch = written * self._fleet.request_seconds
            spread = written * facts.curate.per_row + controls * size.kept * facts.curate.per_keyed + fetch
            parallel = spread / min(self._fleet.workers, _DATASETS * shards)
            seconds, hours = choose + parallel, (spread + _DATASETS * choose) / 3600
            bound = "choosing, on one worker" if choose > parallel else "reading and writing rows"
        row = facts.row_bytes["pool"]
        scanned = picks * facts.choosing.pick_bytes + controls * size.kept * self._embedding
        return StagePlan(
            name=stage.name, kind=stage.kind, rows=size.kept, bytes_in=scanned + written * row,
            bytes_out=written * row, seconds=seconds, worker_hours=hours,
            reads=written + controls * size.kept / _READ_ROWS, writes=2.0 * _DATASETS * shards, bound=bound,
        )  # fmt: skip

    def _evaluate(self, stage: Stage) -> StagePlan:
        facts = self._facts
        rows = facts.raw["evaluation"].rows * facts.kept["evaluation"] if "evaluation" in facts.raw else 0
        seconds = 0.0 if facts.evaluate is None else facts.evaluate.seconds(rows, again=stage.again)
        return StagePlan(
            name=stage.name, kind=stage.kind, rows=rows, bytes_in=rows * facts.row_bytes.get("evaluation", 0),
            bytes_out=1000.0, seconds=seconds, worker_hours=self._hours(seconds), reads=rows / _READ_ROWS, writes=1.0,
            bound="this machine",
        )  # fmt: skip

    # --- What they share ----------------------------------------------------------------------------------------------

    def _hours(self, seconds: float) -> float:
        """Of all cores of this machine, which a stage has to itself."""
        return seconds * self._facts.cores / 3600

    def _step_seconds(self, config: TrainConfig) -> tuple[float, str]:
        """A step's seconds, and what bounds it."""
        if self._fleet is None:
            kind = "distill" if isinstance(config, DistillConfig) else "train"
            return self._facts.training[kind].step, "this machine"
        compute = flops.step(config, _architecture(config)) / self._fleet.flops
        decoding = config.superbatch_size * self._facts.decode_seconds / self._fleet.host_cores
        return max((compute, "arithmetic"), (decoding, "decoding on the hosts"))

    def _choose_seconds(self, picks: float) -> float:
        """The longest of the steps that choose: they run side by side, one for each dataset."""
        chosen, size = self._facts.choosing, self._size
        return size.budget * chosen.per_taken + max(picks * chosen.per_pick, size.kept * chosen.per_keyed)

    def _shuffled(self, raw: float, kept: float) -> float:
        """Keys are grouped by uid, then by shard; and by text, where repeated texts are looked for."""
        by_text = stages.ingest(self._settings).max_text_repeats is not None
        return (raw + (2 if by_text else 1) * kept) * self._facts.key_bytes

    @property
    def _blocks(self) -> float:
        """Of a super-batch."""
        return self._distill.superbatch_size / self._distill.block_size


_READ_ROWS = 256  # that `curate` and `evaluate` read at a time
_DEVICES_PER_HOST = 4
_TASK_BYTES = 150.0  # of a raw file, in the graph that is sent to the runner


def _embedding_bytes(settings: Round) -> float:
    """A row of embeddings, as stored."""
    width = presets.get(stages.train(settings).preset).embedding
    vector = bytes(width * _itemsize(settings))
    row = records.Embedding(uid="0" * 32, valid=True, image_embedding=vector, text_embedding=vector)
    return float(len(records.encode_embedding(row)))


def _itemsize(settings: Round) -> int:
    return 4 if stages.embed(settings).dtype == "float32" else 2


def _architecture(config: TrainConfig) -> Architecture:
    return Architecture(config.preset, config.pixels, config.vocabulary or presets.get(config.preset).vocabulary)


def _parameters(config: TrainConfig) -> int:
    """How many numbers a model is."""
    _, shapes = _architecture(config).shapes()
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
