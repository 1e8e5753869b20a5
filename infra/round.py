"""`superbatch round`: whole rounds on this machine, from one TOML file.

Which stages there are stands in `infra/stages.py`. Here their settings are checked, all of them before the first stage
runs, and they are run in order. Every stage is the real command's own function and does nothing when its output is
complete, so a round that was stopped goes on at the first incomplete stage.
"""

import dataclasses
import json
import logging
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydantic

from beam_pipelines import curate, embed, ingest, publish
from infra import gate, stages, timings
from infra.stages import Round, Stage
from schemas import manifest as manifests
from schemas import storage
from schemas.errors import ConfigError, DataError
from trainer import evaluate, loop
from trainer.config import DistillConfig, TrainConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """Run whole rounds on this machine; a complete stage is not run again."""

    config: str
    """TOML file: see benchmarks/openmoji/round.toml"""
    print_stages: bool = False
    """print the stages as JSON (what each reads, makes and is told), and run none"""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What the gate compares: figures of models trained on the curated set, and on its control."""

    curated: list[str]
    control: list[str]
    metric: str = gate.METRIC


@dataclass(frozen=True, kw_only=True)
class PublishSection:
    """Where a round's curated set is published, if models trained on it beat those trained on its control."""

    destination: str
    alias: str | None = None
    publisher: str | None = None
    metric: str = gate.METRIC


# What a round decides itself, and a section of the file may therefore not set.
_WIRED = {
    "corpus", "source", "output", "workdir", "reference", "embeddings", "selections", "control", "name", "version",
    "distributed", "exit_code_if_stopped",
}  # fmt: skip
_SECTIONS: dict[str, type] = {
    "ingest": ingest.IngestConfig,
    "train": TrainConfig,
    "embed": embed.EmbedConfig,
    "distill": DistillConfig,
    "curate": curate.CurateConfig,
    "downstream": TrainConfig,
    "publish": PublishSection,
}
# Every job of a stage: its config, and the function that runs it.
_JOBS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "ingest": (ingest.IngestConfig, lambda config: ingest.run(config, [])),
    "train": (TrainConfig, loop.run),
    "embed": (embed.EmbedConfig, lambda config: embed.run(config, [])),
    "distill": (DistillConfig, loop.run),
    "curate": (curate.CurateConfig, lambda config: curate.run(config, [])),
    "evaluate": (evaluate.EvaluateConfig, evaluate.run),
    "gate": (GateConfig, lambda config: judge(config)),  # defined below
    "publish": (publish.PublishConfig, lambda config: publish.run(config, [])),
}


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
        refuse_unknown(f"{path} [{name}]", section, known)
    known = {f.name for f in dataclasses.fields(Round)} - {"sections"}
    refuse_unknown(path, content, known)
    for name in ("name", "pool", "seed", "output"):
        if name not in content:
            raise ConfigError(f"{path} lacks `{name}`")
    found = build(path, Round, **content, sections=sections)
    if found.rounds < 1:
        raise ConfigError(f"{path}: rounds is {found.rounds}; it must be at least 1")
    if found.downstream_seeds and found.evaluation is None:
        raise ConfigError(f"{path}: downstream_seeds needs an `evaluation` corpus")
    if len(set(found.downstream_seeds)) < len(found.downstream_seeds):
        raise ConfigError(f"{path}: downstream_seeds is {found.downstream_seeds}; each seed may come once")
    if "publish" in sections:
        build(f"{path} [publish]", PublishSection, **sections["publish"])
        if not found.downstream_seeds:
            raise ConfigError(
                f"{path} [publish]: only a curated set that beats its control is published, so downstream_seeds (and "
                "an `evaluation` corpus) must say what is trained to compare them"
            )
    return found


def run(config: RoundConfig) -> list[Done]:
    """Runs every stage that is not complete; returns all of them, in order."""
    asked = read(config.config)
    planned = plan(asked)
    done, stopped_at_gate = [], False
    for number, (stage, settings) in enumerate(planned, start=1):
        log.info("[%d/%d] %s", number, len(planned), stage.name)
        begin = time.monotonic()
        if stage.kind == "gate":
            verdict = judge(settings)
            stopped_at_gate = not verdict.passed
            log.info("%s", verdict)
            done.append(Done(stage.name, "", str(verdict), "", time.monotonic() - begin))
        elif stage.kind == "publish" and stopped_at_gate:
            done.append(Done(stage.name, "", "not published", "", 0.0))
        else:
            with timings.timed(asked.output, stage.name, stage.output):
                _JOBS[stage.job][1](settings)
            done.append(_describe(stage, time.monotonic() - begin))
    return done


def plan(settings: Round) -> list[tuple[Stage, Any]]:
    """Lists the stages of all rounds, each after its inputs, with its command's config.

    Raises:
      ConfigError: a setting that its command refuses.
    """
    return [(stage, configure(stage)) for stage in stages.graph(settings)]


def configure(stage: Stage) -> Any:
    """Builds and checks the config of a stage's command.

    Raises:
      ConfigError: naming the section of the file, the setting and what is wrong with it.
    """
    return build(f"[{stage.section}]", _JOBS[stage.job][0], **stage.config)


def judge(config: GateConfig) -> gate.Verdict:
    """Compares what models trained on the curated set and on its control have reached.

    Raises:
      DataError: an evaluation is missing, or holds no such figure.
    """
    try:
        return gate.judge(config.curated, config.control, storage.read_bytes, config.metric)
    except FileNotFoundError as error:
        raise DataError(f"an evaluation that the gate compares is missing: {error}") from None
    except ValueError as error:
        raise DataError(str(error)) from None


def as_json(settings: Round) -> str:
    """The stages, checked, as a JSON list of objects with the fields of `stages.Stage`."""
    return json.dumps([dataclasses.asdict(stage) for stage, _ in plan(settings)], indent=2)


def table(done: list[Done]) -> str:
    """Lays stages, counts and seconds out for a terminal."""
    names, counts = max(len(d.name) for d in done), max(len(d.counts) for d in done)
    lines = [f"{'stage':<{names}}  {'counts':<{counts}}  {'seconds':>7}  fingerprint"]
    lines += [f"{d.name:<{names}}  {d.counts:<{counts}}  {d.seconds:>7.1f}  {d.fingerprint}" for d in done]
    lines.append(f"{'total':<{names}}  {'':<{counts}}  {sum(d.seconds for d in done):>7.1f}")
    return "\n".join(lines)


def build(where: str, config: type, **fields: Any) -> Any:
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


def refuse_unknown(where: str, keys: dict[str, Any], known: set[str]) -> None:
    """Checks the names in a section of a file.

    Raises:
      ConfigError: naming those that nothing knows, and those that something does.
    """
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
