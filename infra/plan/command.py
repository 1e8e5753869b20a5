"""`superbatch plan`: what a round will cost before it runs, and after it, what it did cost.

Enters: a round's file. Leaves: a table or one JSON object, and `plan.json` in the round's output, which holds what was
measured as well: `--measured=plan.json` plans again without measuring, and `--actual` compares with `timings.jsonl`.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic

from infra import timings
from infra.plan import estimate, prices, rehearsal, report, stages
from infra.plan.estimate import Fleet, Scenario
from infra.plan.facts import Facts
from infra.stages import Round
from schemas import storage
from schemas.errors import ConfigError, DataError

FILE_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Plan a round: rows, bytes, time and money of every stage, here or on a cloud's devices.

    Runs the stages on a sample to learn what they cost on this machine. With --device, models are not trained here:
    their speed follows from their operations and the device's.
    """

    config: str
    """TOML file of the round, as `superbatch round` takes it"""
    rows: str = "10_000_000,1_000_000_000,10_000_000_000"
    """raw rows of the pool to plan for beside the round's own, separated by commas; empty for none"""
    epochs: float | None = None
    """at those sizes: how often distill passes over the pool; as often as in the round if not given"""
    task_rows: int | None = None
    """at those sizes: rows of a raw file; as in the source if not given"""
    device: str | None = None
    """plan for this device of the price table (tpu-v5e, nvidia-h100, …) instead of this machine"""
    devices: int = 16
    """with --device: how many, together"""
    mfu: float = 0.4
    """with --device: the share of its peak that arithmetic reaches"""
    workers: int = 320
    """with --device: vCPUs of the Beam jobs"""
    request_ms: float = 30.0
    """with --device: how long an object store takes to answer"""
    sample: int = 2048
    """rows of the pool to measure with, at least; more where a super-batch is larger"""
    steps: int = 16
    """steps of each training to measure with"""
    measured: str | None = None
    """an earlier plan.json: plan with what it measured, instead of measuring"""
    prices: str | None = None
    """price table (TOML); infra/prices.toml if not given"""
    actual: bool = False
    """compare the plan in the round's output with the seconds that its stages took"""
    json: bool = False
    """print one JSON object instead of tables"""

    def __post_init__(self) -> None:
        for field in ("devices", "workers", "sample"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if self.steps < _FEWEST_STEPS:
            raise ConfigError(f"steps is {self.steps}; it must be at least {_FEWEST_STEPS}: the first one compiles")
        if not 0 < self.mfu <= 1:
            raise ConfigError(f"mfu is {self.mfu}; it is a share of the device's peak, above 0 and at most 1")
        for field in ("epochs", "task_rows", "request_ms"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ConfigError(f"{field} is {value}; it must be positive")
        _ = self.sizes

    @property
    def sizes(self) -> list[int]:
        """The pool sizes asked for.

        Raises:
          ConfigError: one is no positive number.
        """
        words = [word.strip() for word in self.rows.split(",") if word.strip()]
        for word in words:
            if not re.fullmatch(r"[0-9][0-9_]*", word) or int(word) < 1:
                raise ConfigError(
                    f"rows is {self.rows!r}, and {word!r} is no number of rows: e.g. 10_000_000,1000000000"
                )
        return [int(word) for word in words]


_FEWEST_STEPS = 2


def run(config: PlanConfig) -> str:
    """Plans, or compares; returns what to print."""
    settings = stages.read(config.config)
    stages.of(settings)  # what is wrong with the stages' settings is said before anything is measured
    if config.actual:
        return _compare(config, settings)
    table = prices.read(config.prices)
    fleet = _fleet(config, table)
    if config.measured is not None:
        facts = _read_facts(config.measured)
    else:
        facts = rehearsal.run(settings, rows=config.sample, steps=config.steps, models=fleet is None)
    if fleet is None and not facts.rehearsed_here:
        raise ConfigError(
            f"measured is {config.measured}, which was measured for a device: the models' speed here is not in it. "
            "Name a --device, or measure anew"
        )
    scenarios = [
        estimate.scenario(settings, facts, size, fleet, table)
        for size in (
            estimate.size_of(settings, facts, rows, config.epochs, config.task_rows) for rows in (None, *config.sizes)
        )
    ]
    assumed = report.assumptions(
        settings, facts, fleet, table, config.prices or str(prices.DEFAULT.name), dataclasses.asdict(config)
    )
    plan = _as_json(config, settings, facts, scenarios, assumed, table)
    if fleet is None:  # a plan for another machine is not to be compared with what happens on this one
        storage.replace(_path(settings), json.dumps(plan, indent=1).encode() + b"\n")
    if config.json:
        return json.dumps(plan)
    tables = [
        f"{report.table(s, table.currency)}\n{report.capacity(s) if not s.size.own else ''}".rstrip() for s in scenarios
    ]
    where = f"\n\nkept in {_path(settings)}" if fleet is None else ""
    return "\n\n".join(tables) + "\n\nassumptions:\n" + "\n".join(f"- {line}" for line in assumed) + where


def _fleet(config: PlanConfig, table: prices.Prices) -> Fleet | None:
    if config.device is None:
        return None
    return Fleet(
        device=config.device, chip=table.device(config.device), devices=config.devices, mfu=config.mfu,
        workers=config.workers, request_seconds=config.request_ms / 1000,
    )  # fmt: skip


def _as_json(
    config: PlanConfig,
    settings: Round,
    facts: Facts,
    scenarios: list[Scenario],
    assumed: list[str],
    table: prices.Prices,
) -> dict[str, Any]:
    return {
        "round": settings.name,
        "planned": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": dataclasses.asdict(config),
        "currency": table.currency,
        "prices_checked": table.checked,
        "assumptions": assumed,
        "scenarios": [
            dataclasses.asdict(s)
            | {"seconds": s.seconds, "bottleneck": {"stage": s.longest.name, "by": s.longest.bound}}
            for s in scenarios
        ],
        "measured": dataclasses.asdict(facts),
    }


def _compare(config: PlanConfig, settings: Round) -> str:
    path = _path(settings)
    if not path.exists():
        raise DataError(f"{path} does not exist: `superbatch plan --config={config.config}` makes it, before the round")
    try:
        stored = json.loads(path.read_bytes())
        [own] = [s for s in stored["scenarios"] if s["size"]["own"]]
        planned = {stage["name"]: float(stage["seconds"]) for stage in own["stages"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error!r}): plan again") from None
    actual = timings.actual(timings.read(settings.output))
    if not actual:
        raise DataError(
            f"{settings.output}/{timings.FILE_NAME} names no stage that has run: `superbatch round "
            f"--config={config.config}` writes it"
        )
    both = [name for name in planned if name in actual]
    if config.json:
        total = {"planned": sum(planned[n] for n in both), "actual": sum(actual[n] for n in both)}
        ratio = total["planned"] / total["actual"] if total["actual"] else None
        names = {n: {"planned": planned[n], "actual": actual.get(n)} for n in planned}
        return json.dumps({"planned_on": stored["planned"], "stages": names, "total": total, "ratio": ratio})
    return report.compared(planned, actual)


def _read_facts(path: str) -> Facts:
    try:
        return pydantic.TypeAdapter(Facts).validate_python(json.loads(storage.read_bytes(path))["measured"])
    except OSError as error:
        raise ConfigError(f"measured {path} cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"measured {path} is no plan of this release: {said}") from None


def _path(settings: Round) -> Any:
    return storage.as_path(settings.output) / FILE_NAME
