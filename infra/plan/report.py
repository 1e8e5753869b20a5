"""A plan for people, and a plan beside what happened: tables for a terminal.

Enters: scenarios, facts, timings. Leaves: text. The same numbers, unrounded, are in `plan.json`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from infra.plan.estimate import Fleet, Scenario, StagePlan
from infra.plan.facts import Facts
from infra.plan.prices import Prices
from infra.stages import Round

_HEADER = ("stage", "rows", "in", "out", "time", "vCPU h", "device h", "money", "bound by")


def table(scenario: Scenario, currency: str) -> str:
    """One size: a line for each stage; at sizes that are not the round's own, one for each kind."""
    planned = scenario.stages if scenario.size.own else _by_kind(scenario.stages)
    rows = [_row(stage) for stage in planned]
    total = (
        "total", "", "", size(scenario.stored), duration(scenario.seconds),
        _amount(sum(s.worker_hours for s in planned)), _amount(sum(s.device_hours for s in planned)),
        _amount(scenario.money), "",
    )  # fmt: skip
    own = "the round as it is: " if scenario.size.own else ""
    longest = scenario.longest
    share = 100 * longest.seconds / scenario.seconds if scenario.seconds else 0.0
    return "\n".join(
        [
            f"{own}{scenario.size.raw:,} raw rows, {scenario.size.kept:,.0f} kept, "
            f"{scenario.size.distill_steps:,} steps of distill",
            *_aligned([_HEADER, *rows, total]),
            f"stored with the raw data: {size(scenario.stored)}, {_amount(scenario.stored_month)} {currency} a month. "
            f"Bottleneck: {longest.name} ({longest.bound}), {share:.0f} % of the time",
        ]
    )


def capacity(scenario: Scenario) -> str:
    """What has to fit or to pass through, at one size."""
    found = scenario.capacity
    lines = [
        ("corpus", f"{size(found['corpus_bytes'])} in {found['shards']:,} shards of {size(found['bytes_per_shard'])}; "
                   f"{found['shards_of_1_GiB']:,} of 1 GiB"),
        ("super-batch", f"{found['superbatch']:,} candidates, {size(found['superbatch_read_bytes'])} and "
                        f"{found['superbatch_reads']:,.0f} reads a step"),
        ("step", f"{duration(found['step_seconds'])}: each of {found['hosts']:,.0f} hosts reads "
                 f"{size(found['read_bytes_per_second_per_host'])}/s and sends its devices "
                 f"{size(found['device_input_bytes_per_second_per_host'])}/s; decoding takes "
                 f"{found['decode_cores']:,.1f} of {found['host_cores']:,.0f} cores"),
        ("embeddings", f"{size(found['embeddings_bytes'])}, of them vectors "
                       f"{size(found['embeddings_vector_bytes'])}"),
        ("ingest", f"shuffles {size(found['ingest_shuffle_bytes'])} of keys; its graph lists tasks of "
                   f"{size(found['ingest_graph_bytes'])}; shards take {found['ingest_spool_requests']:,.0f} requests "
                   "to the spools"),
        ("selections", f"{found['picks']:,} picks, {size(found['selections_bytes'])}"),
        ("choosing", f"one worker ranks {found['choose_rows_on_one_worker']:,.0f} rows, "
                     f"{duration(found['choose_seconds'])}"),
    ]  # fmt: skip
    return "\n".join(_aligned([(f"  {name}", text) for name, text in lines]))


def assumptions(
    settings: Round, facts: Facts, fleet: Fleet | None, prices: Prices, path: str, options: dict[str, Any]
) -> list[str]:
    """Everything that a plan takes for granted."""
    raw = facts.raw["pool"]
    told = [
        f"measured on {facts.machine}, load {facts.load:.1f} at the begin, from {facts.sampled:,} raw rows of the pool "
        f"({'all were counted' if raw.counted else 'the number of all is reckoned from some files'}); the rehearsal "
        f"took {duration(facts.seconds)}",
        "time grows in proportion to rows and steps; a share of rows is kept, and rows are as large, as in the sample. "
        "A sample has fewer duplicates than the whole",
        "elsewhere seed, evaluation, trainings and shards stay as they are; the budget keeps its share of the pool",
        f"at other sizes distill passes over the pool {options['epochs'] or 'as often as in the round'}"
        f"{' times' if options['epochs'] else ''}",
        "stages run one after another, each once, and nothing is complete before",
        f"prices: {path}, {prices.region}, {prices.currency}, "
        + (f"checked {prices.checked}" if prices.checked else "NOT CHECKED against the pages they name"),
        "not in the money: network, logs, the machine that starts the stages, disks of the workers",
    ]
    if fleet is None:
        told.append(
            "time is this machine's, also at other sizes; its vCPU hours are priced as Dataflow's. Programs "
            "are compiled where no cache of compiled programs holds them"
        )
    else:
        told += [
            f"{fleet.devices:,} × {fleet.device} at {100 * fleet.mfu:.0f} % of {fleet.chip.peak_tflops:,.0f} TFLOP/s "
            "each, operations by trainer/flops.py; compiling, checkpoints and starting are left out",
            f"{fleet.workers:,} vCPUs do the Beam jobs, each as quick as a core here; devices have "
            f"{fleet.chip.host_vcpus:g} host vCPUs each, {_PER_HOST} devices a host",
            f"a request to the store takes {1000 * fleet.request_seconds:g} ms; bandwidth is not a limit",
        ]
    rejected, bound = max(facts.rejected.values()), _bound(settings)
    if rejected > bound:
        told.append(
            f"WARNING: {rejected:.1%} of a sample is rejected, and max_rejected_fraction is {bound:.1%}: ingest fails"
        )
    return told


_PER_HOST = 4


def compared(planned: dict[str, float], actual: dict[str, float]) -> str:
    """Plan beside what happened; stages that have not run yet are left out of the total."""
    rows = [("stage", "planned, s", "actual, s", "planned / actual")]
    for name, seconds in planned.items():
        took = actual.get(name)
        ratio = f"{seconds / took:.2f}" if took else ""
        rows.append((name, f"{seconds:.1f}", "not run" if took is None else f"{took:.1f}", ratio))
    both = [(seconds, actual[name]) for name, seconds in planned.items() if name in actual]
    total, took = (sum(column) for column in zip(*both, strict=True)) if both else (0.0, 0.0)
    rows.append(("total", f"{total:.1f}", f"{took:.1f}", f"{total / took:.2f}" if took else ""))
    return "\n".join(_aligned(rows))


def size(count: float) -> str:
    """Bytes, to three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.1f} d"


def _amount(number: float) -> str:
    """Hours or money: three digits of what is small."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _row(stage: StagePlan) -> tuple[str, ...]:
    return (
        stage.name, f"{stage.rows:,.0f}", size(stage.bytes_in), size(stage.bytes_out), duration(stage.seconds),
        _amount(stage.worker_hours), _amount(stage.device_hours), _amount(stage.money), stage.bound,
    )  # fmt: skip


def _by_kind(planned: list[StagePlan]) -> list[StagePlan]:
    """One line for all stages of a kind; ingests stay apart, since the pool's is what grows."""
    summed = [field.name for field in dataclasses.fields(StagePlan) if field.type in (float, "float")]
    found: dict[str, list[StagePlan]] = {}
    for stage in planned:
        found.setdefault(stage.name if stage.kind == "ingest" else stage.kind, []).append(stage)
    lines = []
    for name, group in found.items():
        label = f"{name} × {len(group)}" if len(group) > 1 else group[0].name
        totals = {field: sum(getattr(stage, field) for stage in group) for field in summed}
        lines.append(dataclasses.replace(group[-1], name=label, **totals))
    return lines


def _bound(settings: Round) -> float:
    return settings.sections.get("ingest", {}).get("max_rejected_fraction", 0.05)


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns, numbers to the right: the first and, of a wide table, the last to the left."""
    listed = list(rows)
    columns = list(zip(*listed, strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = {0, len(columns) - 1} if len(columns) != 4 else {0}
    return [
        "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in listed
    ]
