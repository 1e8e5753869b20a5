"""The tables and verdicts of docs/results.md, one function for each of the study's questions."""

import functools
from collections.abc import Callable

from benchmarks.study import experiments
from benchmarks.study.analysis import curve
from benchmarks.study.cells import (
    LABELS,
    SEEDS,
    VARIANTS,
    best_and_last,
    matched_share,
    of_seeds,
    percent,
    ratio_of,
    separation,
    share_of_set,
    signed,
    table,
    times,
)
from benchmarks.study.claims import Comparison, best_scores, compare, found, verdict
from benchmarks.study.corpora import NAMES
from benchmarks.study.experiments import NOISES, NOISIEST, jest, uniform
from benchmarks.study.runs import LEARNING_RATE, Downstream, Learner, Reference
from benchmarks.study.store import RESULTS, Store


def _what_was_run(records: Store) -> str:
    hours, machines = records.hours(), sorted(records.machines())
    return f"{len(records)} runs, {hours:.1f} core-hours, on: {'; '.join(machines)}."


def _headline(records: Store) -> str:
    rows = []
    for corpus in NAMES:
        for noise in reversed(NOISES):
            base = found(records, of_seeds(uniform, corpus, noise))
            if base is None:
                continue
            curves = [curve(record) for record in base]
            best = percent([c.best for c in curves])
            at = f"{sorted(c.best_step for c in curves)[len(curves) // 2]:,}"
            for name in VARIANTS:
                sooner = ratio_of(records, corpus, noise, name)
                if sooner is not None:
                    rows.append(
                        [LABELS[corpus], f"{noise:g}", best, at, name, times(sooner.steps_median, sooner.steps),
                         times(sooner.operations_median, sooner.operations)]
                    )  # fmt: skip
    pictures = [f"![Scores over steps, {LABELS[corpus]}](results-curves-{corpus}.svg)\n" for corpus in NAMES]
    shown = table("corpus | noise | uniform's best score | at step | against it | fewer steps | fewer operations", rows)
    return "\n".join([shown, *pictures])


def _criteria(records: Store) -> str:
    rows, comparisons = [], []
    for corpus in NAMES:
        for noise in reversed(NOISES):
            runs = {
                name: of_seeds(uniform, corpus, noise)
                if name == "uniform"
                else of_seeds(jest, corpus, noise, criterion=name)
                for name in experiments.CRITERIA
            }
            rows.append([LABELS[corpus], f"{noise:g}", *(best_and_last(records, listed) for listed in runs.values())])
            for other in experiments.CRITERIA[:3]:
                ours, base = best_scores(records, runs["learnability"]), best_scores(records, runs[other])
                if ours and base:
                    comparisons.append(Comparison(f"{corpus} {noise} {other}", ours, base))
    against = {name: [c for c in comparisons if c.what.endswith(name)] for name in experiments.CRITERIA[:3]}
    words = [f"Learnability against {name.replace('_', ' ')}. {verdict(c)}" for name, c in against.items()]
    return (
        table("corpus | noise | uniform | hard learner | easy reference | learnability", rows)
        + "\n"
        + "\n\n".join(words)
    )


def _joint(records: Store) -> str:
    rows, comparisons = [], []
    for corpus in NAMES:
        settings = [(f"f = {ratio_:g}", {"filter_ratio": ratio_}) for ratio_ in experiments.RATIOS]
        settings += [(f"f = 0.8, b = {size}", {"batch_size": size}) for size in experiments.subbatches(corpus)]
        for name, changes in settings:
            listed = [of_seeds(jest, corpus, NOISIEST, joint=together, **changes) for together in (True, False)]
            shown = [best_and_last(records, runs) for runs in listed]
            picked = [matched_share(records, runs) for runs in listed]
            rows.append([LABELS[corpus], name, *shown, *picked])
            ours, base = (best_scores(records, runs) for runs in listed)
            if ours and base:
                comparisons.append(Comparison(f"{corpus} {name}", ours, base))
    shown = table("corpus | setting | joint | independent | matched picks, joint | independent", rows)
    return f"{shown}\n{verdict(comparisons)}"


def _chunks(records: Store) -> str:
    rows = []
    for corpus in NAMES:
        listed = [of_seeds(jest, corpus, NOISIEST, chunks=count) for count in experiments.CHUNKS]
        rows.append([LABELS[corpus], *(best_and_last(records, runs) for runs in listed)])
    pictures = [
        f"![Learnability by chunks, and by Gibbs sampling, {LABELS[corpus]}](results-gibbs-{corpus}.svg)\n"
        for corpus in NAMES
        if (RESULTS / "gibbs" / f"{corpus}.json").exists()
    ]
    return "\n".join([table("corpus | 1 chunk | 4 chunks | 16 chunks", rows), *pictures])


def _flexi(records: Store) -> str:
    rows, comparisons = [], []
    for corpus in NAMES:
        for noise in reversed(NOISES):
            for ratio_ in experiments.RATIOS[1:]:
                changes = {} if ratio_ == 0.8 else {"filter_ratio": ratio_}
                fine, coarse = (of_seeds(jest, corpus, noise, **changes, **more) for more in ({}, {"flexi": True}))
                rows.append(
                    [
                        LABELS[corpus],
                        f"{noise:g}",
                        f"{ratio_:g}",
                        *(best_and_last(records, r) for r in (fine, coarse)),
                    ]
                )
                ours, base = best_scores(records, coarse), best_scores(records, fine)
                if ours and base:
                    comparisons.append(Comparison(f"{corpus} {noise} {ratio_}", ours, base))
    return (
        table("corpus | noise | f | JEST | Flexi-JEST", rows)
        + f"\nFlexi-JEST against JEST at equal operations. {verdict(comparisons)}"
    )


def _references(records: Store) -> str:
    rows, comparisons = [], []
    for corpus in NAMES:
        for pictures in experiments.PICTURES:
            firsts = [Reference(corpus=corpus, seed=seed, pictures=pictures) for seed in SEEDS]
            learners: list[Learner] = [
                jest(corpus, NOISIEST, seed, **experiments.given(first))
                for seed, first in zip(SEEDS, firsts, strict=True)
            ]
            seconds = [
                jest(corpus, NOISIEST, seed, reference=experiments.bootstrapped(learner))
                for seed, learner in zip(SEEDS, learners, strict=True)
            ]
            rows.append(
                [LABELS[corpus], str(pictures), best_and_last(records, firsts), separation(records, learners),
                 best_and_last(records, learners), separation(records, seconds), best_and_last(records, seconds)]
            )  # fmt: skip
            ours, base = best_scores(records, seconds), best_scores(records, learners)
            if ours and base:
                comparisons.append(Comparison(f"{corpus} {pictures}", ours, base))
    shown = table(
        "corpus | clean pictures | the reference alone | its separation | JEST with it | separation, bootstrapped "
        "| JEST with the bootstrapped", rows
    )  # fmt: skip
    return f"{shown}\nA learner with the bootstrapped reference against one with the first. {verdict(comparisons)}"


def _distillation(records: Store) -> str:
    rows, comparisons = [], []
    for corpus in NAMES:
        for budget in experiments.BUDGETS:
            by_subset = {
                subset: [
                    Downstream(learner=jest(corpus, NOISIEST, seed), subset=subset, budget=budget, seed=seed)
                    for seed in SEEDS
                ]
                for subset in experiments.SUBSETS
            }
            scores = {subset: best_scores(records, runs) for subset, runs in by_subset.items()}
            shares = [share_of_set(records, runs) for runs in by_subset.values()]
            shown = [best_and_last(records, runs) for runs in by_subset.values()]
            rows.append([LABELS[corpus], f"{budget:.0%}", *shown, " / ".join(shares)])
            for other in ("control", "top_reference"):
                if (ours := scores["curated"]) and (base := scores[other]):
                    comparisons.append(Comparison(f"{corpus} {budget} {other}", ours, base))
    words = [
        f"Curated against {name}. {verdict([c for c in comparisons if c.what.endswith(end)])}"
        for name, end in (
            ("the random control", "control"),
            ("the rows with the highest reference scores", "top_reference"),
        )
    ]
    shown = table("corpus | budget | curated | control | top reference | matched share of the three", rows)
    return shown + "\n" + "\n\n".join(words)


def _rounds(records: Store) -> str:
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
                before = [c[number - 1][2] for c in chains]
                ours, base = best_scores(records, downstream), best_scores(records, before)
                if ours and base:
                    comparisons.append(Comparison(f"{corpus} {number + 1}", ours, base))
    shown = table(
        "corpus | round | its reference | separation | its learner | matched share of its curated set | a model of it",
        rows,
    )
    return f"{shown}\nA model on a round's curated set against one on the round's before. {verdict(comparisons)}"


def _ablations(records: Store) -> str:
    rows = []
    for corpus in NAMES:
        usual = functools.partial(jest, corpus, NOISIEST)
        for name, make in ({"as it is": usual} | experiments.variants(corpus)).items():
            runs = [make(seed) for seed in SEEDS]
            difference = compare(records, name, make, usual, SEEDS) if make is not usual else []
            rows.append(
                [LABELS[corpus], name, best_and_last(records, runs), signed(difference[0]) if difference else "",
                 matched_share(records, runs), separation(records, runs)]
            )  # fmt: skip
    return table("corpus | change | score | against it as it is | matched picks | separation", rows)


def _rates(records: Store) -> str:
    rows = [
        [LABELS[corpus], f"{LEARNING_RATE[corpus]:g}"]
        + [best_and_last(records, [run]) for run in experiments.rates(corpus, SEEDS[:1])]
        for corpus in NAMES
    ]
    heads = " | ".join(f"{rate:g}" for rate in experiments.RATES)
    return table(f"corpus | taken | {heads}", rows)


SECTIONS: dict[str, Callable[[Store], str]] = {
    "what was run": _what_was_run,
    "headline": _headline,
    "criteria": _criteria,
    "joint": _joint,
    "chunks": _chunks,
    "flexi": _flexi,
    "references": _references,
    "distillation": _distillation,
    "rounds": _rounds,
    "ablations": _ablations,
    "rates": _rates,
}
