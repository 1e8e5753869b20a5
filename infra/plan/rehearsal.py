"""A round on a sample, by the stages' own functions, in their order and in a temporary folder: what each costs here.

Enters: a round's file. Leaves: `Facts`. A job runs on two sizes, so that what it takes for each row is known apart from
what it takes anyway; a training makes a few of its steps at the round's own batch sizes. What comes first in a process
(imports, compiling) is the difference between a first and a second run. A persistent cache of compiled programs
is used as it is found.
"""

import json
import logging
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from beam_pipelines import curate, curate_keys, curate_plan, embed, ingest, job
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.ingest import UniqueKey
from beam_pipelines.spool import Key
from infra.plan import choosing, sample, stages
from infra.plan.facts import Choosing, Curate, Facts, Job, Training
from infra.plan.sample import Raw
from infra.stages import Round
from schemas import manifest as manifests
from schemas import records, selections, shards, storage
from schemas.errors import ConfigError
from trainer import decode, evaluate, loop, metrics, tokenizer
from trainer.config import DistillConfig, TrainConfig
from trainer.presets import get

_SKIPPED = 3  # steps of a training until its queues are as full as they stay
_ROWS_PER_SHARD = 32  # with fewer, a shard may be empty by chance
_SMALLER = 4  # the smaller of two sizes is a quarter
_DECODED = 256  # images
_CONTROLS, _DATASETS = 2, 3  # of curate, as a round runs it
log = logging.getLogger(__name__)


def run(settings: Round, *, rows: int, steps: int, models: bool) -> Facts:
    """Rehearses a round.

    Args:
      settings: of the round.
      rows: of the pool, at least; more if a super-batch is larger.
      steps: of each training.
      models: train the round's own models; else stand-ins, where a device's speed is stated instead of measured.

    Raises:
      DataError: a raw source cannot be read.
      ConfigError: there are fewer rows than a step takes.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="superbatch-plan-") as folder:
        rehearsal = _Rehearsal(settings if models else _stand_ins(settings), Path(folder), rows, steps)
        facts = rehearsal.run()
    pixels = stages.distill(settings).pixels
    return replace(
        facts, rehearsed_here=models, seconds=time.monotonic() - begin,
        decode_seconds=rehearsal.decode_seconds(pixels),
    )  # fmt: skip


def _stand_ins(settings: Round) -> Round:
    """The round with the smallest models and batches, for what does not depend on them."""
    small = {
        "preset": "tiny", "resolution": 32, "batch_size": 16, "block_size": 16, "warmup_steps": 0, "flexi": False,
        "scoring_resolution": None, "chunks": 4, "filter_ratio": 0.5, "vocabulary": None, "tokenizer": None,
    }  # fmt: skip
    sections = dict(settings.sections)
    for name in ("train", "distill", "downstream"):
        known = small if name == "distill" else {k: v for k, v in small.items() if k in TrainConfig.__annotations__}
        sections[name] = settings.sections.get(name, {}) | known
    return replace(settings, sections=sections)


class _Rehearsal:
    """One rehearsal: its folder, and what it has measured so far."""

    def __init__(self, settings: Round, folder: Path, rows: int, steps: int):
        self._settings, self._folder, self._steps = settings, folder, steps
        self._raw: dict[str, Raw] = {}
        self._images: list[bytes] = []
        self._texts: list[str] = []
        self._rows = rows
        self._load = os.getloadavg()[0]

    def run(self) -> Facts:
        """Runs every stage."""
        settings = self._settings
        log.info("plan: counting the raw rows")
        roles = [role for role in stages.CORPORA if stages.source_of(settings, role) is not None]
        for role in roles:
            self._raw[role] = sample.count(stages.ingest(settings, source=self._source(role)))
        kept = self._share_of_budget()
        ingested = self._ingest(roles)
        self._look_at(self._path("seed"), self._path("pool"))
        training = {"train": self._train("train", "seed", "reference", 0)}
        embedded = self._embed()
        training["distill"] = self._distill()
        log.info("plan: choosing rows from a made-up log")
        chosen = choosing.measure(self._folder / "choosing")
        curated = self._curate(kept, chosen)
        evaluated = None
        if settings.downstream_seeds:
            training["downstream"] = self._downstream()
            evaluated = self._evaluate()
        corpora = {role: manifests.read(self._path(role)) for role in roles}
        return Facts(
            machine=f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}", cores=os.cpu_count() or 1,
            load=self._load, sampled=corpora["pool"].counts.read, rehearsed_here=True, seconds=0.0, decode_seconds=0.0,
            raw=self._raw,
            kept={role: m.counts.kept / max(m.counts.read, 1) for role, m in corpora.items()},
            rejected={role: m.counts.rejected_fraction for role, m in corpora.items()},
            row_bytes={role: self._row_bytes(role) for role in roles},
            key_bytes=_key_bytes(), ingest=ingested, embed=embedded, curate=curated, evaluate=evaluated,
            training=training, choosing=chosen,
        )  # fmt: skip

    def decode_seconds(self, pixels: int) -> float:
        """Seconds of one thread to decode an image of the sample as the round's learner sees it."""
        begin = time.perf_counter()
        for image in self._images:
            decode.decode_image(image, pixels, decode.ANTIALIASED)
        return (time.perf_counter() - begin) / len(self._images)

    # --- The stages, in the order of a round --------------------------------------------------------------------------

    def _ingest(self, roles: Sequence[str]) -> Job:
        wanted = {role: self._wanted(role) for role in roles}
        seconds = {role: self._ingest_one(role, role, wanted[role]) for role in roles}
        small = self._ingest_one("pool", "small", max(wanted["pool"] // _SMALLER, _ROWS_PER_SHARD))
        read = {role: manifests.read(self._path(role)).counts.read for role in (*roles, "small")}
        fitted = _fit((read["small"], small), (read["pool"], seconds["pool"]))
        first = roles[0]
        return replace(fitted, cold=max(0.0, seconds[first] - fitted.seconds(read[first], again=True)))

    def _ingest_one(self, role: str, name: str, rows: int) -> float:
        config = stages.ingest(
            self._settings, source=self._source(role), name=name, output=self._path(name), max_rejected_fraction=1.0,
            shards=_shards(self._settings.sections.get("ingest", {}).get("shards", 8), rows),
        )  # fmt: skip
        log.info("plan: ingest, %d rows of %s", rows, role)
        return _seconds(lambda: ingest.run(sample.take(config, self._raw[role], rows), []))

    def _train(self, section: str, corpus: str, name: str, seed: int | None) -> Training:
        rows = manifests.read(self._path(corpus)).rows
        config = self._training(stages.train(self._settings, section), section)
        config = replace(config, corpus=self._path(corpus), workdir=self._path(name), name="plan")
        if seed is not None:
            config = replace(config, seed=seed)
        if rows < config.batch_size:
            raise ConfigError(
                f"[{section}] batch_size is {config.batch_size}, and the sample of {corpus} has {rows} rows: raise "
                "--sample, or lower the batch"
            )
        return self._time_training(config, rows, f"train, [{section}]")

    def _distill(self) -> Training:
        config = self._training(stages.distill(self._settings), "distill")
        assert isinstance(config, DistillConfig)
        rows = manifests.read(self._path("pool")).rows
        if rows < config.superbatch_size:
            raise ConfigError(
                f"a super-batch of [distill] has {config.superbatch_size} rows and the pool's sample {rows}: raise "
                "--sample, or state a device (--device) instead of measuring here"
            )
        config = replace(
            config, corpus=self._path("pool"), embeddings=self._path("embeddings"), reference=None, name="plan",
            workdir=self._path("distill"),
        )  # fmt: skip
        return self._time_training(config, rows, "distill")

    def _training(self, config: TrainConfig, section: str) -> TrainConfig:
        """The settings of so many steps as are rehearsed. Programs are those of the round in all but their number."""
        # One more downstream, so that the two share a compiled program here only if they do in the round.
        steps = min(config.steps, self._steps + (section == "downstream"))
        middle = max(1, (steps + 1) // 2)
        return replace(
            config, steps=steps, warmup_steps=min(config.warmup_steps, steps), log_every=1, checkpoint_every=middle,
            evaluate_every=middle, profile=False,
        )  # fmt: skip

    def _time_training(self, config: TrainConfig, rows: int, named: str) -> Training:
        log.info("plan: %s, %d steps", named, config.steps)
        per_text = 0.0
        if config.tokenizer is None and not isinstance(config, DistillConfig):
            vocabulary, length = config.vocabulary or get(config.preset).vocabulary, get(config.preset).text_length
            texts = self._texts[:rows] or ["a"]
            per_text = _seconds(lambda: tokenizer.train(texts, vocabulary, length)) / len(texts)
        seconds = _seconds(lambda: loop.run(config))
        lines = _steps(config.workdir)
        paused = [line for line in lines if {"seconds_checkpoint", "seconds_evaluate"} & set(line)]
        quiet = [line for line in lines if line not in paused]
        steady = quiet[_SKIPPED:] or quiet[1:] or quiet or lines
        step = sum(line["seconds_per_step"] for line in steady) / len(steady)
        save = max((line.get("seconds_checkpoint", 0.0) for line in paused), default=0.0)
        evaluation = max((line.get("seconds_evaluate", 0.0) for line in paused), default=0.0)
        rest = seconds - config.steps * step - save - evaluation - per_text * rows
        return Training(fixed=max(rest, 0.0), step=step, save=save, evaluation=evaluation, tokenizer_per_text=per_text)

    def _embed(self) -> Job:
        def timed(corpus: str, output: str) -> tuple[int, float]:
            config = stages.embed(
                self._settings, corpus=self._path(corpus), reference=self._path("reference"), output=self._path(output)
            )
            rows = manifests.read(config.corpus).rows
            log.info("plan: embed, %d rows", rows)
            return rows, _seconds(lambda: embed.run(config, []))

        rows, first = timed("pool", "embeddings")
        fitted = _fit(timed("small", "embeddings-small"), timed("pool", "embeddings-again"))
        return replace(fitted, cold=max(0.0, first - fitted.seconds(rows, again=True)))

    def _curate(self, budget: int, chosen: Choosing) -> Curate:
        corpus = manifests.read(self._path("pool"))
        log_of_picks = self._path("distill")
        picks = selections.read_picks(selections.resolve(log_of_picks), ["row"])
        many = min(budget, len(picks["row"].unique()))
        few = max(1, many // _SMALLER)

        def settings(rows: int, output: str) -> CurateConfig:
            return stages.curate(
                self._settings, corpus=self._path("pool"), selections=log_of_picks, output=self._path(output),
                control=self._path(f"{output}-control"), budget=rows, name="plan",
                shards=_shards(self._settings.sections.get("curate", {}).get("shards", 8), rows),
                decontaminate=None, near_duplicates=None, quotas={}, quota_by=None,
            )  # fmt: skip

        def timed(rows: int, output: str) -> float:
            log.info("plan: curate, %d rows and as many in two controls", rows)
            return _seconds(lambda: curate.run(settings(rows, output), []))

        first = timed(many, "curated")
        fitted = _fit((_DATASETS * few, timed(few, "curated-few")), (_DATASETS * many, timed(many, "curated-again")))
        per_keyed = self._key_rows(settings(few, "keyed"))
        beside = _CONTROLS * corpus.rows * (per_keyed + chosen.per_keyed) + picks.num_rows * chosen.per_pick
        return Curate(
            fixed=max(0.0, fitted.fixed - beside), per_row=fitted.per_row, per_keyed=per_keyed,
            cold=max(0.0, first - fitted.seconds(_DATASETS * many, again=True)),
        )  # fmt: skip

    def _key_rows(self, config: CurateConfig) -> float:
        """Seconds to key a row for a control, on average over both."""
        inputs = curate_plan.read_inputs(config)
        controls = [output for output in curate_plan.list_outputs(config, inputs) if output.control is not None]
        for output in controls:
            (Path(output.directory) / job.WORK_DIRECTORY).mkdir(parents=True)
        keyed = manifests.read(config.corpus).shards[0].rows
        seconds = _seconds(lambda: [curate_keys.score_shard(output, inputs, 0) for output in controls])
        return seconds / len(controls) / keyed

    def _downstream(self) -> Training:
        first = self._train("downstream", "curated", "downstream", None)
        again = self._train("downstream", "curated", "downstream-again", 1)
        return replace(again, cold=max(0.0, first.fixed - again.fixed), step=(first.step + again.step) / 2)

    def _evaluate(self) -> Job:
        def timed(corpus: str, output: str) -> tuple[int, float]:
            config = evaluate.EvaluateConfig(
                checkpoint=self._path("downstream"), corpus=self._path(corpus), output=self._path(output)
            )
            rows = manifests.read(self._path(corpus)).rows
            log.info("plan: evaluate, %d rows", rows)
            return rows, _seconds(lambda: evaluate.run(config))

        rows, first = timed("evaluation", "evaluation.json")
        fitted = _fit(timed("small", "evaluation-small.json"), timed("evaluation", "evaluation-again.json"))
        return replace(fitted, cold=max(0.0, first - fitted.seconds(rows, again=True)))

    # --- What is sampled ----------------------------------------------------------------------------------------------

    def _source(self, role: str) -> str:
        source = stages.source_of(self._settings, role)
        assert source is not None
        return source

    def _path(self, name: str) -> str:
        return str(self._folder / name)

    def _wanted(self, role: str) -> int:
        """The rows to sample: enough for a step of whatever trains on them, with a few that are rejected."""
        needed = {"seed": stages.train(self._settings).batch_size, "evaluation": 1, "pool": self._pool_needed()}
        return min(self._raw[role].rows, max(self._rows, round(1.2 * needed[role])))

    def _pool_needed(self) -> int:
        budget = self._budget_share()
        downstream = stages.train(self._settings, "downstream").batch_size if self._settings.downstream_seeds else 0
        return max(stages.distill(self._settings).superbatch_size, round(downstream / budget))

    def _budget_share(self) -> float:
        budget = stages.curate(self._settings).budget
        return min(1.0, budget if budget < 1 else budget / max(self._raw["pool"].rows, 1))

    def _share_of_budget(self) -> int:
        downstream = stages.train(self._settings, "downstream").batch_size if self._settings.downstream_seeds else 1
        return max(downstream, round(self._budget_share() * self._wanted("pool")))

    def _row_bytes(self, role: str) -> float:
        """Of a row as stored. A small shard's own size says little: ArrayRecord's files are 128 KiB at least."""
        manifest = manifests.read(self._path(role))
        rows = shards.open_dataset(self._path(role), manifest).read(range(min(manifest.rows, _DECODED)))
        return sum(map(len, rows)) / max(len(rows), 1)

    def _look_at(self, seed: str, pool: str) -> None:
        for directory, wanted in ((seed, self._texts), (pool, self._images)):
            manifest = manifests.read(directory)
            reader = shards.open_dataset(directory, manifest)
            for first in range(0, manifest.rows, _DECODED):
                found = map(records.decode_pair, reader.read(range(first, min(first + _DECODED, manifest.rows))))
                wanted += [pair.text for pair in found] if wanted is self._texts else [pair.image for pair in found]
                if wanted is self._images:
                    break


def _fit(small: tuple[int, float], large: tuple[int, float]) -> Job:
    """A line through two (rows, seconds). Rows get a tenth of the time at least, where noise hides the difference."""
    (few, short), (many, long) = small, large
    least = 0.1 * long / max(many, 1)
    per_row = max(least, (long - short) / (many - few)) if many > few else least
    return Job(fixed=max(0.0, long - per_row * many), per_row=per_row)


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _shards(configured: int, rows: int) -> int:
    return max(1, min(configured, rows // _ROWS_PER_SHARD))


def _steps(directory: str) -> list[dict[str, float]]:
    path = storage.as_path(directory) / metrics.METRICS_FILE
    return [line for line in map(json.loads, path.read_text().splitlines()) if "seconds_per_step" in line]


def _key_bytes() -> float:
    """A row's key as the shuffle carries it, with the uid that it is grouped by."""
    key = Key("0" * 32, "1" * 32, task=1000, row=100_000, spool="01000-0123456789ab", place=100_000, rows=100_000)
    return len(pickle.dumps((key.uid, UniqueKey(key, copies=1))))
