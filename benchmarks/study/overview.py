"""What the study comes to: how much was run, the headline figures, and every claim in one line.

Enters: the records. Leaves: `headline.json`'s content, and the first sections of docs/results.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.study import experiments, schedule
from benchmarks.study.analysis import curve, has_learned, median
from benchmarks.study.cells import (
    BY_OPERATIONS,
    BY_REFERENCE,
    BY_STEPS,
    LABELS,
    SEEDS,
    of_seeds,
    ratio_of,
    relative,
    rounded,
    table,
    told,
)
from benchmarks.study.claims import Comparison, compare, counts, found, pooled, were_run, word
from benchmarks.study.corpora import NAMES
from benchmarks.study.experiments import NOISES, jest, uniform
from benchmarks.study.runs import Run, name_of
from benchmarks.study.sections import QUESTIONS
from benchmarks.study.store import Store


def asked() -> list[Run]:
    """Every run of the study."""
    return schedule.with_needs(run for ask in experiments.ALL.values() for name in NAMES for run in ask(name, SEEDS))


def what_was_run(records: Store) -> str:
    """How many runs, how long, and on what."""
    runs = asked()
    done = [run for run in runs if run in records]
    hours, machines = sum(records[run]["seconds"] for run in done) / 3600, {records[run]["machine"] for run in done}
    missing = len(runs) - len(done)
    said = f"{len(done)} runs, {hours:.1f} core-hours, on: {'; '.join(sorted(machines))}."
    said += f" **{missing} of the study's {len(runs)} runs are missing.**" if missing else ""
    return f"{said}{_repeated(records, done)}"


def _repeated(records: Store, runs: Sequence[Run]) -> str:
    """How far runs that had to be carried out again came from their records, and how many were made of those."""
    changes = [
        abs(curve(records[run] | again).best / curve(records[run]).best - 1)
        for run in runs
        for again in records[run].get("repeats", [])
    ]
    if not changes:
        return ""
    heirs = sum(
        any(records[run]["parents"][name_of(needed)] != records.parameters_of(needed)[0] for needed in run.needs)
        for run in runs
    )
    return (
        f"\n\n{len(changes)} of them were carried out again on another machine, because later ones needed their "
        "parameters, and came out otherwise: rounding differs. Their best scores changed by "
        f"{np.median(changes):.0%} (median; at most {max(changes):.0%}). The first time is what is shown; "
        f"{heirs} runs were made of a repetition."
    )


def in_short(records: Store) -> str:
    """The headline by corpus and noise, and every claim with its verdict."""
    rows = []
    for row in headline(records):
        corpus, noise = row["corpus"], row["noise"]
        sooner = [_sooner(row[f"{of}_ratio"], row[f"{of}_of"]) for of in ("steps", "flops", "reference_alone_flops")]
        longer = of_seeds(jest, corpus, noise, as_many_steps=True)
        gained = compare(records, longer, of_seeds(uniform, corpus, noise))
        rows.append([LABELS[corpus], f"{noise:.0%}", *sooner, ", ".join(_together([gained]))])
    head = (
        "corpus | mismatched | fewer steps to uniform's best | fewer operations | by the reference's scores alone "
        "| JEST's score, with as many steps"
    )
    claims = [
        [claim, word(listed), counts(listed), *_together(listed)]
        for ask in QUESTIONS.values()
        for claim, listed in ask(records).claims.items()
    ]
    second = "compared | verdict | by Student's test | all together | beyond what the seeds explain"
    return f"{table(head, rows)}\n{table(second, claims)}"


def _sooner(ratio: float | None, name: str | None) -> str:
    if name is None:
        return "not run"
    return "never, by most seeds" if ratio is None else f"**{ratio:.1f}×** ({name})"


def _together(comparisons: Sequence[Comparison | None]) -> tuple[str, str]:
    if not (run := were_run(comparisons)):
        return "", ""
    together = pooled(run)
    return relative(together), told(together)


def headline(records: Store) -> list[dict[str, Any]]:
    """How much sooner JEST is where the uniform learner is best, by corpus and noise: medians over the seeds.

    `steps_ratio` compares learners with as many steps, `flops_ratio` learners with as many operations. Each is the best
    variant's, which `steps_of` and `flops_of` name, and null where most seeds never get there with any. All variants
    are there, seed by seed. What has not been run has no entry. `reference_alone_flops_ratio` is not of JEST: it is the
    same of learners that pick by the reference's cached scores and score nothing themselves.
    """
    rows = []
    for corpus in NAMES:
        for noise in NOISES:
            base = found(records, of_seeds(uniform, corpus, noise))
            by_steps, by_operations, by_reference = (
                {
                    name: ratio
                    for name, changes in variants.items()
                    if (ratio := ratio_of(records, corpus, noise, changes))
                }
                for variants in (BY_STEPS, BY_OPERATIONS, BY_REFERENCE)
            )
            if base is None or not by_steps or not by_operations:
                continue
            by_cost = BY_OPERATIONS | BY_REFERENCE
            runs = {"uniform": of_seeds(uniform, corpus, noise)}
            runs |= {f"{name}, as many steps": of_seeds(jest, corpus, noise, **BY_STEPS[name]) for name in by_steps}
            runs |= {name: of_seeds(jest, corpus, noise, **by_cost[name]) for name in (*by_operations, *by_reference)}
            files = {f"study/{records[run]['file']}" for listed in runs.values() for run in listed}
            rows.append(
                {"corpus": corpus, "noise": noise}
                | _best("steps", {name: ratio.steps for name, ratio in by_steps.items()})
                | _best("flops", {name: ratio.operations for name, ratio in by_operations.items()})
                | _best("reference_alone_flops", {name: ratio.operations for name, ratio in by_reference.items()})
                | {
                    "uniform_has_learned": [has_learned(record) for record in base],
                    "seeds": list(SEEDS),
                    "result_files": sorted(files),
                    "runs": {name: [records[run]["name"] for run in listed] for name, listed in runs.items()},
                }
            )
    return rows


def _best(of: str, ratios: dict[str, list[float | None]]) -> dict[str, Any]:
    name = max(ratios, key=lambda name: median(ratios[name]) or 0.0, default=None)
    return {
        f"{of}_ratio": None if name is None else rounded(median(ratios[name])),
        f"{of}_of": name,
        f"{of}_of_seeds": {name: [rounded(value) for value in listed] for name, listed in ratios.items()},
    }
