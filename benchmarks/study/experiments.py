"""Which runs answer which of the study's questions, about one corpus.

Enters: a corpus's name and the seeds. Leaves: runs; one that several questions ask for is the same run. The page that
shows the answers (`benchmarks.study.page`) asks here for the runs of each, and looks their records up.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from benchmarks.study.runs import BATCH_SIZE, Downstream, Draws, Learner, Reference, Run
from benchmarks.study.runs import REFERENCE_STEPS as RECIPE_STEPS

NOISES = (0.0, 0.4, 0.8)
NOISIEST = NOISES[-1]  # where questions beside the first are asked
CRITERIA = ("uniform", "hard_learner", "easy_reference", "learnability")
RATIOS = (0.5, 0.8, 0.9)
STEEPEST = (0.9, 0.95)  # what is asked of steps alone, where scoring costs nothing
CHUNKS = (1, 4, 16)
PICTURES = (250, 500, 1000)  # that a reference is trained on
BUDGETS = (0.1, 0.25, 0.5)
SUBSETS = ("curated", "control", "top_reference")
ROUNDS = 3
BUDGET_OF_ROUNDS = 0.25
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
GAINS = (0.25, 1.0, 4.0, 16.0)
TUNING_SEED = 0  # settings are chosen on it, and nothing else is shown of it
REFERENCE_STEPS = (300, 1200)


def uniform(corpus: str, noise: float, seed: int) -> Learner:
    """The baseline."""
    return Learner(corpus=corpus, noise=noise, seed=seed, criterion="uniform")


def jest(corpus: str, noise: float, seed: int, **changes: object) -> Learner:
    """JEST as the study has it, or changed."""
    return dataclasses.replace(Learner(corpus=corpus, noise=noise, seed=seed), **changes)  # type: ignore[arg-type]


def criteria(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """Which criterion makes the better learner, at equal operations and every noise level?"""
    for noise in reversed(NOISES):
        for seed in seeds:
            yield uniform(corpus, noise, seed)
            for criterion in CRITERIA[:0:-1]:
                yield jest(corpus, noise, seed, criterion=criterion)


def headline(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """How many fewer steps and operations to the uniform learner's best?"""
    for noise in reversed(NOISES):
        for seed in seeds:
            yield uniform(corpus, noise, seed)
            for ratio in RATIOS[1:]:
                yield jest(corpus, noise, seed, filter_ratio=ratio)
                yield jest(corpus, noise, seed, filter_ratio=ratio, flexi=True)
            yield jest(corpus, noise, seed, as_many_steps=True)
            if noise == NOISIEST:  # elsewhere f = 0.8 says it already: these cost four and eight uniform runs
                for ratio in STEEPEST:
                    yield jest(corpus, noise, seed, filter_ratio=ratio, as_many_steps=True)
                yield jest(corpus, noise, seed, filter_ratio=0.9, criterion="easy_reference")
            yield jest(corpus, noise, seed, criterion="easy_reference")


def joint(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """Is a sub-batch drawn jointly worth more than its examples drawn each by itself?"""
    for seed in seeds:
        for together in (True, False):
            for ratio in RATIOS:
                yield jest(corpus, NOISIEST, seed, filter_ratio=ratio, joint=together)
            for size in subbatches(corpus):
                yield jest(corpus, NOISIEST, seed, batch_size=size, joint=together)


def subbatches(corpus: str) -> tuple[int, int]:
    """Sub-batch sizes beside the corpus's own: half and twice of it."""
    return BATCH_SIZE[corpus] // 2, BATCH_SIZE[corpus] * 2


def chunks(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """In how many chunks does a sub-batch have to be drawn?"""
    for seed in seeds:
        for count in CHUNKS:
            yield jest(corpus, NOISIEST, seed, chunks=count)
        yield Draws(learner=jest(corpus, NOISIEST, seed))


def references(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """How good does the reference have to be, and does a curated set make a better one?"""
    for seed in seeds:
        for pictures in PICTURES:
            first = Reference(corpus=corpus, seed=seed, pictures=pictures)
            learner = jest(corpus, NOISIEST, seed, **given(first))
            yield from (first, learner)
            yield jest(corpus, NOISIEST, seed, reference=bootstrapped(learner))


def given(reference: Reference) -> dict[str, Reference]:
    """The change that names a reference; none for the one that a learner has anyway: equal runs are one run."""
    usual = Reference(corpus=reference.corpus, seed=reference.seed)
    return {} if reference == usual else {"reference": reference}


def bootstrapped(learner: Learner) -> Reference:
    """The reference of the next round: trained on what this learner picked, as the first was on the seed."""
    return Reference(corpus=learner.corpus, seed=learner.seed, curated_by=learner, budget=BUDGET_OF_ROUNDS)


def distillation(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """Is a model trained on the curated set better than one trained as long on as many random rows?"""
    for seed in seeds:
        for budget in BUDGETS:
            for subset in SUBSETS:
                yield Downstream(learner=jest(corpus, NOISIEST, seed), subset=subset, budget=budget, seed=seed)


def rounds(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """Does a second and a third round gain anything?"""
    for seed in seeds:
        yield from (run for _, *runs in chain(corpus, seed) for run in runs)


def chain(corpus: str, seed: int) -> Iterator[tuple[Reference, Learner, Downstream]]:
    """The rounds' references, learners, and models trained on what they picked."""
    learner = jest(corpus, NOISIEST, seed)
    for _ in range(ROUNDS):
        yield (
            learner.guide,
            learner,
            Downstream(learner=learner, subset="curated", budget=BUDGET_OF_ROUNDS, seed=seed),
        )
        learner = jest(corpus, NOISIEST, seed, reference=bootstrapped(learner))


def ablations(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """What would make it work better?"""
    for seed in seeds:
        yield from (make(seed) for make in variants(corpus).values())


def variants(corpus: str) -> dict[str, Callable[[int], Learner]]:
    """The changes to a learner or its reference that are tried, by what they are called; each makes a run of a seed."""

    def learner(**changes: object) -> Callable[[int], Learner]:
        return lambda seed: jest(corpus, NOISIEST, seed, **changes)

    def guided(steps: int = RECIPE_STEPS, augment: bool = True) -> Callable[[int], Learner]:
        def make(seed: int) -> Learner:
            guide = Reference(corpus=corpus, seed=seed, steps=steps, augment=augment)
            return jest(corpus, NOISIEST, seed, reference=guide)

        return make

    return {
        **{f"gain {gain:g}": learner(gain=gain) for gain in GAINS if gain != Learner.gain},
        **{f"{name} scores": learner(variant=name) for name in ("normalised", "clipped")},
        "a quarter uniform": learner(variant="mixed"),
        "reference without augmentation": guided(augment=False),
        **{f"reference of {steps:,} steps": guided(steps=steps) for steps in REFERENCE_STEPS},
    }


def tuning(corpus: str, seeds: Sequence[int]) -> Iterator[Run]:
    """What is best on a seed of its own: the uniform learner's rate, which is everyone's then, and the gain?"""
    del seeds
    yield from (*rates(corpus), *gains(corpus))


def rates(corpus: str) -> list[Learner]:
    """The uniform learner at every learning rate."""
    base = uniform(corpus, NOISIEST, TUNING_SEED)
    return [base if rate == base.rate else dataclasses.replace(base, learning_rate=rate) for rate in RATES]


def gains(corpus: str) -> list[Learner]:
    """JEST at every gain."""
    return [jest(corpus, NOISIEST, TUNING_SEED, filter_ratio=0.9, gain=gain) for gain in GAINS]


# In the order in which they are run: what everything else is compared with comes first.
ALL: dict[str, Callable[[str, Sequence[int]], Iterator[Run]]] = {
    "tuning": tuning,
    "headline": headline,
    "criteria": criteria,
    "distillation": distillation,
    "joint": joint,
    "chunks": chunks,
    "references": references,
    "rounds": rounds,
    "ablations": ablations,
}
