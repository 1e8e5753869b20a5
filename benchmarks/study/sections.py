"""The tables and claims of docs/results.md, one function for each of the study's questions.

Enters: the records. Leaves: what the page shows of them, and the comparisons that each claim rests on.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.study import corpora, experiments
from benchmarks.study.analysis import Ratio, curve, has_learned, share_of_gibbs
from benchmarks.study.cells import (
    BY_OPERATIONS,
    BY_REFERENCE,
    BY_STEPS,
    CEILING,
    LABELS,
    SEEDS,
    best_and_last,
    matched_share,
    of_seeds,
    percent,
    ratio_to,
    relative,
    rows_of_set,
    separation,
    share_of_set,
    signed,
    table,
    times,
    told,
    true_captions,
)
from benchmarks.study.claims import Comparison, compare, found, pooled
from benchmarks.study.corpora import NAMES
from benchmarks.study.experiments import NOISES, NOISIEST, jest, uniform
from benchmarks.study.runs import LEARNING_RATE, TOWERS, Downstream, Draws, Learner, Reference
from benchmarks.study.store import Store
from trainer import flops, presets


@dataclass(frozen=True)
class Answer:
    """What was found out about a question."""

    shown: str  # tables and pictures, Markdown
    # What is compared, in words, and the comparisons; None is one that was not run.
    claims: dict[str, list[Comparison | None]] = field(default_factory=dict)


def _steps(records: Store) -> Answer:
    pictures = [f"![Scores over steps, {LABELS[corpus]}](results-curves-{corpus}.svg)\n" for corpus in NAMES]

    def learners(corpus: str, noise: float) -> dict[str, list[Learner]]:
        clean = {CEILING: of_seeds(uniform, corpus, 0.0)} if noise else {}
        return {name: of_seeds(jest, corpus, noise, **changes) for name, changes in BY_STEPS.items()} | clean

    return Answer("\n".join([_sooner(records, learners, "fewer steps", lambda ratio: ratio.steps), *pictures]))


def _operations(records: Store) -> Answer:
    def learners(corpus: str, noise: float) -> dict[str, list[Learner]]:
        listed = BY_OPERATIONS | BY_REFERENCE
        return {name: of_seeds(jest, corpus, noise, **changes) for name, changes in listed.items()}

    return Answer(_sooner(records, learners, "fewer operations", lambda ratio: ratio.operations))


def _sooner(
    records: Store,
    learners: Callable[[str, float], dict[str, list[Learner]]],
    head: str,
    of: Callable[[Ratio], list[float | None]],
) -> str:
    rows = []
    for corpus in NAMES:
        for noise in reversed(NOISES):
            base = found(records, of_seeds(uniform, corpus, noise))
            if base is None:
                continue
            curves = [curve(record) for record in base]
            best = f"{percent([c.best for c in curves])}{'' if all(map(has_learned, base)) else ' †'}"
            at = ", ".join(f"{c.best_step:,}" for c in curves)
            for name, runs in learners(corpus, noise).items():
                ratio = ratio_to(records, corpus, noise, runs)
                if ratio is not None:
                    score = best_and_last(records, runs)
                    rows.append([LABELS[corpus], f"{noise:g}", best, at, name, times(of(ratio)), score])
    return table(f"corpus | noise | uniform's best score | at step | against it | {head} | its own score", rows)


def _costs(records: Store) -> Answer:
    del records  # arithmetic, by the accounting that every run was given its steps by
    towers = {"`nano`, as here": (TOWERS, corpora.PIXELS), "`B/16`, at 224 pixels": (presets.get("B/16"), 224)}
    rows = []
    for name, (preset, pixels) in towers.items():
        learned, coarse, inputs = 64, 2 * preset.patch_size, (preset, pixels, preset.text_length)
        costs = functools.partial(flops.of_batch, *inputs, learned)
        scored = [round(learned / (1 - f)) for f in experiments.RATIOS[1:]]
        listed = [*(costs(count) for count in scored), *(costs(count, coarse) for count in scored)]
        share = flops.forward(*inputs, coarse) / flops.forward(*inputs)
        rows.append([name, *(f"{cost / costs():.2f}" for cost in listed), f"{share:.0%}"])
    heads = " | ".join(f"{name}, f = {f:g}" for name in ("JEST", "Flexi-JEST") for f in experiments.RATIOS[1:])
    return Answer(table(f"towers | {heads} | a coarse pass, of a fine one", rows, left=1))


def _criteria(records: Store) -> Answer:
    rows, comparisons, at_equal_steps = [], {name: [] for name in experiments.CRITERIA[:3]}, []
    for corpus in NAMES:
        for noise in reversed(NOISES):
            runs = {"uniform": of_seeds(uniform, corpus, noise)}
            runs |= {name: of_seeds(jest, corpus, noise, criterion=name) for name in experiments.CRITERIA[1:]}
            runs["as many steps"] = of_seeds(jest, corpus, noise, as_many_steps=True)
            at_equal_steps.append(compare(records, runs["as many steps"], runs["easy_reference"]))
            rows.append([LABELS[corpus], f"{noise:g}", *(best_and_last(records, listed) for listed in runs.values())])
            for other, compared in comparisons.items():
                compared.append(compare(records, runs["learnability"], runs[other]))
    claims = {f"Learnability against {name.replace('_', ' ')}": compared for name, compared in comparisons.items()}
    claims["Learnability against easy reference, with as many steps"] = at_equal_steps
    shown = table(
        "corpus | noise | uniform | hard learner | easy reference | learnability | learnability, as many steps", rows
    )
    return Answer(shown, claims)


def _joint(records: Store) -> Answer:
    rows, comparisons = [], []
    for corpus in NAMES:
        settings: dict[str, dict[str, Any]] = {f"f = {f:g}": {"filter_ratio": f} for f in experiments.RATIOS}
        settings |= {f"f = 0.8, b = {size}": {"batch_size": size} for size in experiments.subbatches(corpus)}
        for name, changes in settings.items():
            both = [of_seeds(jest, corpus, NOISIEST, joint=together, **changes) for together in (True, False)]
            picked = [matched_share(records, runs) for runs in both]
            rows.append([LABELS[corpus], name, *(best_and_last(records, runs) for runs in both), *picked])
            comparisons.append(compare(records, *both))
    shown = table("corpus | setting | joint | independent | matched picks, joint | independent", rows)
    return Answer(shown, {"Drawn jointly against independently": comparisons})


def _chunks(records: Store) -> Answer:
    rows, pictures, comparisons = [], [], {count: [] for count in experiments.CHUNKS[:-1]}
    for corpus in NAMES:
        runs = {count: of_seeds(jest, corpus, NOISIEST, chunks=count) for count in experiments.CHUNKS}
        drawn = found(records, [Draws(learner=learner) for learner in of_seeds(jest, corpus, NOISIEST)])
        gained = ["not run"] * len(runs)
        if drawn is not None:
            shares = [share_of_gibbs(record) for record in drawn]
            gained = [percent([share[f"{count} chunks"] for share in shares]) for count in runs]
            words = f"Learnability gained by drawing in chunks and by Gibbs sampling, {LABELS[corpus]}"
            pictures.append(f"![{words}](results-gibbs-{corpus}.svg)\n")
        rows.append([LABELS[corpus], "score, %", *(best_and_last(records, listed) for listed in runs.values())])
        rows.append([LABELS[corpus], "learnability gained, % of Gibbs sampling's", *gained])
        for count, compared in comparisons.items():
            compared.append(compare(records, runs[experiments.CHUNKS[-1]], runs[count]))
    claims = {f"16 chunks against {count}": compared for count, compared in comparisons.items()}
    return Answer("\n".join([table("corpus | of | 1 chunk | 4 chunks | 16 chunks", rows), *pictures]), claims)


def _flexi(records: Store) -> Answer:
    rows, comparisons = [], []
    for corpus in NAMES:
        for noise in reversed(NOISES):
            for f in experiments.RATIOS[1:]:
                fine, coarse = (of_seeds(jest, corpus, noise, filter_ratio=f, **more) for more in ({}, {"flexi": True}))
                shown = [best_and_last(records, runs) for runs in (fine, coarse)]
                rows.append([LABELS[corpus], f"{noise:g}", f"{f:g}", *shown])
                comparisons.append(compare(records, coarse, fine))
    shown = table("corpus | noise | f | JEST | Flexi-JEST", rows)
    return Answer(shown, {"Flexi-JEST against JEST at equal operations": comparisons})


def _references(records: Store) -> Answer:
    rows, again, comparisons = [], [], []
    for corpus in NAMES:
        for pictures in experiments.PICTURES:
            firsts = [Reference(corpus=corpus, seed=seed, pictures=pictures) for seed in SEEDS]
            learners = [jest(corpus, NOISIEST, first.seed, **experiments.given(first)) for first in firsts]
            bootstrapped = [experiments.bootstrapped(learner) for learner in learners]
            seconds = [jest(corpus, NOISIEST, second.seed, reference=second) for second in bootstrapped]
            which, true_of_first = [LABELS[corpus], str(pictures)], true_captions(records, firsts)
            scores = [best_and_last(records, runs) for runs in (firsts, learners, seconds)]
            rows.append([*which, true_of_first, scores[0], separation(records, learners), scores[1]])
            separations = [separation(records, seconds, name) for name in ("separation_before", "separation")]
            again.append([*which, true_of_first, true_captions(records, bootstrapped), *separations, *scores[1:]])
            comparisons.append(compare(records, seconds, learners))
    first = table("corpus | clean pictures | true captions | the reference alone | its separation | JEST with it", rows)
    second = table(
        "corpus | clean pictures | true captions, first | bootstrapped | separation of unseen rows, first "
        "| bootstrapped | JEST with the first | with the bootstrapped", again
    )  # fmt: skip
    claim = "A learner with the bootstrapped reference against one with the first"
    return Answer(f"{first}\n{second}", {claim: comparisons})


def _distillation(records: Store) -> Answer:
    rows, comparisons = [], {"control": [], "top_reference": []}
    for corpus in NAMES:
        learners = of_seeds(jest, corpus, NOISIEST)
        for budget in experiments.BUDGETS:
            runs = {
                subset: [Downstream(learner=one, subset=subset, budget=budget, seed=one.seed) for one in learners]
                for subset in experiments.SUBSETS
            }
            shares = " / ".join(share_of_set(records, listed) for listed in runs.values())
            scores = [best_and_last(records, listed) for listed in runs.values()]
            rows.append([LABELS[corpus], f"{budget:.0%}", rows_of_set(records, runs["curated"]), *scores, shares])
            for other, compared in comparisons.items():
                compared.append(compare(records, runs["curated"], runs[other]))
    names = {"control": "the random control", "top_reference": "the rows with the highest reference scores"}
    claims = {f"A model of the curated set against one of {names[k]}": listed for k, listed in comparisons.items()}
    shown = table("corpus | budget | rows | curated | control | top reference | matched share of the three", rows)
    return Answer(shown, claims)


def _rounds(records: Store) -> Answer:
    rows, comparisons = [], []
    for corpus in NAMES:
        chains = [list(experiments.chain(corpus, seed)) for seed in SEEDS]
        for number in range(experiments.ROUNDS):
            references, learners, downstream = (list(runs) for runs in zip(*(c[number] for c in chains), strict=True))
            scores = [best_and_last(records, runs) for runs in (references, learners, downstream)]
            rows.append(
                [LABELS[corpus], str(number + 1), scores[0], separation(records, learners), scores[1],
                 share_of_set(records, downstream), scores[2]]
            )  # fmt: skip
            if number:
                comparisons.append(compare(records, downstream, [c[number - 1][2] for c in chains]))
    shown = table(
        "corpus | round | its reference | separation | its learner | matched share of its curated set | a model of it",
        rows,
    )
    return Answer(shown, {"A model of a round's curated set against one of the round's before": comparisons})


def _ablations(records: Store) -> Answer:
    rows, both = [], {name: [] for name in experiments.variants(NAMES[0])}
    for corpus in NAMES:
        usual = functools.partial(jest, corpus, NOISIEST)
        for name, make in ({"as it is": usual} | experiments.variants(corpus)).items():
            runs = [make(seed) for seed in SEEDS]
            difference = compare(records, runs, [usual(seed) for seed in SEEDS])
            if name in both and difference is not None:
                both[name].append(difference)
            rows.append(
                [LABELS[corpus], name, best_and_last(records, runs),
                 signed(difference) if name in both and difference else "",
                 matched_share(records, runs), separation(records, runs)]
            )  # fmt: skip
    shown = table("corpus | change | score | against it as it is | matched picks | separation", rows)
    complete = {name: pooled(listed) for name, listed in both.items() if len(listed) == len(NAMES)}
    together = [[name, relative(comparison), told(comparison)] for name, comparison in complete.items()]
    head = "change | score, both corpora together | beyond what the seeds explain"
    return Answer(f"{shown}\n{table(head, together, left=1)}")


def _tuning(records: Store) -> Answer:
    rates = [
        [LABELS[corpus], f"{LEARNING_RATE[corpus]:g}"]
        + [best_and_last(records, [run]) for run in experiments.rates(corpus)]
        for corpus in NAMES
    ]
    gains = []
    for corpus in NAMES:
        base = found(records, [uniform(corpus, NOISIEST, experiments.TUNING_SEED)])
        for run in experiments.gains(corpus):
            ours = found(records, [run])
            at = None if base is None or ours is None else curve(ours[0]).reaches(curve(base[0]).best)
            shown = "not run" if ours is None else "never" if at is None else f"{at:.0f}"
            gains.append([LABELS[corpus], f"{run.gain:g}", shown, best_and_last(records, [run])])
    heads = " | ".join(f"{rate:g}" for rate in experiments.RATES)
    first = table(f"uniform, corpus | rate taken | {heads}", rates)
    second = table("JEST, f = 0.9, corpus | gain | steps to uniform's best | score", gains)
    return Answer(f"{first}\n{second}")


QUESTIONS: dict[str, Callable[[Store], Answer]] = {
    "steps": _steps,
    "operations": _operations,
    "costs": _costs,
    "criteria": _criteria,
    "joint": _joint,
    "chunks": _chunks,
    "flexi": _flexi,
    "references": _references,
    "distillation": _distillation,
    "rounds": _rounds,
    "ablations": _ablations,
    "tuning": _tuning,
}
