"""What a plan asks of a round: its stages by name and kind, and the settings of each.

The one place that knows the graph of stages (`infra/stages.py`).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.embed import EmbedConfig
from beam_pipelines.ingest_config import IngestConfig
from infra import round as rounds
from infra.stages import Round
from trainer.config import DistillConfig, TrainConfig

Kind = Literal["ingest", "train", "embed", "distill", "curate", "downstream", "evaluate"]
CORPORA = ("seed", "pool", "evaluation")


@dataclass(frozen=True)
class Stage:
    """A stage to plan; `again` says that one of its kind comes before it in the round, and has compiled programs."""

    name: str
    kind: Kind
    output: str
    corpus: str | None  # of an ingest: which one
    number: int  # of its round, from 1
    again: bool


def read(path: str) -> Round:
    """Reads a round's file.

    Raises:
      ConfigError: what `superbatch round` would say of it.
    """
    return rounds.read(path)


def of(settings: Round) -> list[Stage]:
    """The stages of all rounds that a plan knows, in order; their settings have been checked.

    Raises:
      ConfigError: what `superbatch round` would say of them.
    """
    found: list[Stage] = []
    number = 1
    for stage, _ in rounds.plan(settings):
        kind = stage.section if stage.job == "train" else stage.job
        if kind not in get_args(Kind):
            continue
        if kind == "train" and any(before.kind == "train" for before in found):
            number += 1
        corpus = stage.id.removeprefix("ingest_") if kind == "ingest" else None
        again = any(before.kind == kind for before in found)
        found.append(Stage(stage.name, cast(Kind, kind), stage.output, corpus, number, again))
    return found


def source_of(settings: Round, corpus: str) -> str | None:
    """Where the raw data of a corpus comes from; None if the round has no such corpus."""
    return {"seed": settings.seed, "pool": settings.pool, "evaluation": settings.evaluation}[corpus]


def ingest(settings: Round, **wired: Any) -> IngestConfig:
    """The settings of an ingest."""
    return _config(settings, "ingest", IngestConfig, wired)


def train(settings: Round, section: str = "train", **wired: Any) -> TrainConfig:
    """The settings of a reference's training, or of a downstream model's."""
    return _config(settings, section, TrainConfig, wired)


def embed(settings: Round, **wired: Any) -> EmbedConfig:
    """The settings of an embed."""
    return _config(settings, "embed", EmbedConfig, wired)


def distill(settings: Round, **wired: Any) -> DistillConfig:
    """The settings of a distill."""
    return _config(settings, "distill", DistillConfig, wired)


def curate(settings: Round, **wired: Any) -> CurateConfig:
    """The settings of a curate."""
    return _config(settings, "curate", CurateConfig, wired)


def _config(settings: Round, section: str, config: type, wired: dict[str, Any]) -> Any:
    """Paths that were not given are none: what is planned does not lie anywhere."""
    missing = dataclasses.MISSING
    required = {f.name for f in dataclasses.fields(config) if f.default is missing and f.default_factory is missing}
    fields = settings.sections.get(section, {}) | wired
    unset = {name: "unset" for name in required if name not in fields and name != "budget"}
    if "source" in unset:
        unset["source"] = "folder:unset"
    return config(**unset | fields)
