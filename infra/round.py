"""`superbatch round`: whole rounds on this machine, from one TOML file.

    corpora: ingest the seed, the pool and the evaluation corpus
    round k: train reference → embed → distill → curate (→ train and evaluate downstream models)

Round k + 1's reference trains on round k's curated set. Every stage is the real command's own function and does nothing
when its output is complete, so a round that was stopped goes on at the first incomplete stage.
"""

import dataclasses
import logging
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pydantic

from beam_pipelines import curate, embed, ingest
from infra import timings
from schemas import manifest as manifests
from schemas import storage
from schemas.errors import ConfigError
from trainer import evaluate, loop
from trainer.config import DistillConfig, TrainConfig

log = logging.getLogger(__name__)

# What a round decides itself, and a section of the file may therefore not set.
_WIRED = {
    "corpus", "source", "output", "workdir", "reference", "embeddings", "selections", "control", "name", "version",
}  # fmt: skip
_SECTIONS: dict[str, type] = {
    "ingest": ingest.IngestConfig,
    "train": TrainConfig,
    "embed": embed.EmbedConfig,
    "distill": DistillConfig,
    "curate": curate.CurateConfig,
    "downstream": TrainConfig,
}


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """Run whole rounds on this machine; a complete stage is not run again."""

    config: str
    """TOML file: see benchmarks/openmoji/round.toml"""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round's file, read and checked."""

    name: str
    pool: str
    seed: str
    output: str
    evaluation: str | None = None
    version: str = "1.0.0"
    rounds: int = 1
    downstream_seeds: list[int] = field(default_factory=list)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def directory(self, number: int) -> str:
        """The directory of round `number`, counted from 1: the output itself for the first."""
        root = storage.as_path(self.output)
        return str(root if number == 1 else root / f"round-{number}")


@dataclass(frozen=True)
class Stage:
    """One command of a round: what it makes, and how."""

    name: str
    output: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Done:
    """A stage that is complete: its counts, and the seconds it took now."""

    name: str
    output: str
    counts: str
    fingerprint: str
    seconds: float


def read(path: str) -> Round:
    """Reads a round's file.

    Raises:
      ConfigError: it cannot be parsed, or has keys that no stage knows.
    """
    try:
        content = tomllib.loads(storage.read_bytes(path).decode())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: --config names a round's TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    sections = {name: content.pop(name) for name in list(content) if isinstance(content[name], dict)}
    for name, section in sections.items():
        if name not in _SECTIONS:
            raise ConfigError(f"{path} has a section [{name}]; there are: {', '.join(_SECTIONS)}")
        known = {f.name for f in dataclasses.fields(_SECTIONS[name])} - _WIRED
        known -= {"seed"} if name == "downstream" else set()  # downstream_seeds says which
        _refuse_unknown(f"{path} [{name}]", section, known)
    known = {f.name for f in dataclasses.fields(Round)} - {"sections"}
    _refuse_unknown(path, content, known)
    for name in ("name", "pool", "seed", "output"):
        if name not in content:
            raise ConfigError(f"{path} lacks `{name}`")
    found = _build(path, Round, **content, sections=sections)
    if found.rounds < 1:
        raise ConfigError(f"{path}: rounds is {found.rounds}; it must be at least 1")
    if found.downstream_seeds and found.evaluation is None:
        raise ConfigError(f"{path}: downstream_seeds needs an `evaluation` corpus")
    return found


def run(config: RoundConfig) -> list[Done]:
    """Runs every stage that is not complete; returns all of them, in order."""
    settings = read(config.config)
    stages = plan(settings)
    done = []
    for number, stage in enumerate(stages, start=1):
        log.info("[%d/%d] %s", number, len(stages), stage.name)
        begin = time.monotonic()
        with timings.timed(settings.output, stage.name, stage.output):
            stage.run()
        done.append(_describe(stage, time.monotonic() - begin))
    return done


def plan(settings: Round) -> list[Stage]:
    """Lists the stages of all rounds, in an order in which each finds its inputs."""
    corpora = storage.as_path(settings.output) / "corpora"
    sources = {"seed": settings.seed, "pool": settings.pool}
    if settings.evaluation is not None:
        sources["evaluation"] = settings.evaluation
    stages = [_ingest(settings, role, source, str(corpora / role)) for role, source in sources.items()]
    reference_corpus = str(corpora / "seed")
    for number in range(1, settings.rounds + 1):
        stages += _one_round(settings, number, str(corpora / "pool"), reference_corpus, str(corpora / "evaluation"))
        reference_corpus = str(storage.as_path(settings.directory(number)) / "curated")
    return stages


def table(done: list[Done]) -> str:
    """Lays stages, counts and seconds out for a terminal."""
    names, counts = max(len(d.name) for d in done), max(len(d.counts) for d in done)
    lines = [f"{'stage':<{names}}  {'counts':<{counts}}  {'seconds':>7}  fingerprint"]
    lines += [f"{d.name:<{names}}  {d.counts:<{counts}}  {d.seconds:>7.1f}  {d.fingerprint}" for d in done]
    lines.append(f"{'total':<{names}}  {'':<{counts}}  {sum(d.seconds for d in done):>7.1f}")
    return "\n".join(lines)


def _one_round(settings: Round, number: int, pool: str, reference_corpus: str, evaluation: str) -> list[Stage]:
    root = storage.as_path(settings.directory(number))
    reference, distilled = str(root / "workdirs" / "reference"), str(root / "workdirs" / "distill")
    embeddings, curated, control = str(root / "embeddings"), str(root / "curated"), str(root / "control")
    suffix = f" (round {number})" if settings.rounds > 1 else ""
    train = _from(settings, "train", corpus=reference_corpus, workdir=reference, name=f"{settings.name}_reference")
    cache = _from(settings, "embed", corpus=pool, reference=reference, output=embeddings, name=settings.name)
    distill = _from(
        settings, "distill", corpus=pool, embeddings=embeddings, reference=reference, workdir=distilled,
        name=f"{settings.name}_distill",
    )  # fmt: skip
    pick = _from(
        settings, "curate", corpus=pool, selections=distilled, output=curated, control=control,
        name=f"{settings.name}_curated",
    )  # fmt: skip
    stages = [
        Stage(f"train reference{suffix}", reference, lambda: loop.run(train)),
        Stage(f"embed{suffix}", embeddings, lambda: embed.run(cache, [])),
        Stage(f"distill{suffix}", distilled, lambda: loop.run(distill)),
        Stage(f"curate{suffix}", curated, lambda: curate.run(pick, [])),
    ]
    for seed in settings.downstream_seeds:
        for label, corpus in (("curated", curated), ("control", f"{control}/uniform")):
            stages += _downstream(settings, label, corpus, seed, root, evaluation, suffix)
    return stages


def _downstream(
    settings: Round, label: str, corpus: str, seed: int, root: Any, evaluation: str, suffix: str
) -> list[Stage]:
    workdir = str(root / "workdirs" / f"downstream-{label}-{seed}")
    figures = str(root / "evaluations" / f"downstream-{label}-{seed}.json")
    train = _from(
        settings, "downstream", corpus=corpus, workdir=workdir, seed=seed, name=f"{settings.name}_{label}_{seed}"
    )
    measured = evaluate.EvaluateConfig(checkpoint=workdir, corpus=evaluation, output=figures)

    def measure() -> None:
        if not evaluate.is_current(measured):
            evaluate.run(measured)

    return [
        Stage(f"train on {label}, seed {seed}{suffix}", workdir, lambda: loop.run(train)),
        Stage(f"evaluate {label}, seed {seed}{suffix}", figures, measure),
    ]


def _ingest(settings: Round, role: str, source: str, output: str) -> Stage:
    config = _from(settings, "ingest", source=source, name=f"{settings.name}_{role}", output=output)
    return Stage(f"ingest {role}", output, lambda: ingest.run(config, []))


def _from(settings: Round, section: str, **wired: Any) -> Any:
    """Builds a stage's config from its section and from what the round decides."""
    fields = settings.sections.get(section, {})
    return _build(f"[{section}]", _SECTIONS[section], version=settings.version, **wired, **fields)


def _build(where: str, config: type, **fields: Any) -> Any:
    """Constructs a config with its fields' types checked.

    Raises:
      ConfigError: a value of the wrong type, or one that the config itself refuses.
    """
    try:
        return pydantic.TypeAdapter(config).validate_python(fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ConfigError(f"{where} lacks `{name}`") from None
        raise ConfigError(f"{where} {name} is {first['input']!r}: {first['msg'].lower()}") from None


def _refuse_unknown(where: str, keys: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(keys) - known)
    if unknown:
        raise ConfigError(f"{where} has unknown keys {', '.join(unknown)}; known are: {', '.join(sorted(known))}")


def _describe(stage: Stage, seconds: float) -> Done:
    if not manifests.exists(stage.output):
        return Done(stage.name, stage.output, "", "", seconds)
    manifest = manifests.read(stage.output)
    counts = manifest.counts
    rejected = sum(counts.rejected.values())
    text = f"read {counts.read}, kept {counts.kept}, duplicates {counts.duplicates}, rejected {rejected}"
    return Done(stage.name, stage.output, text, manifest.fingerprint[:12], seconds)
