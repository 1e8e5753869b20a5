"""What a round did, in a few computed sentences and figures: the top of its page.

Enters: a `Round`. Leaves: sentences in plain words, none of them about what is not known, and four or five figures to
begin with.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from infra.report import pictures, truth
from infra.report.collect import Round
from infra.report.curves import Points
from infra.report.drift import Measure

TITLES = {
    "pool": "pool",
    "curated": "curated",
    "uniform": "uniform control",
    "top_reference": "top-reference control",
}


@dataclass(frozen=True)
class Headline:
    """A figure and what it counts."""

    value: str
    says: str


def headlines(found: Round) -> list[Headline]:
    """The figures that a reader wants first."""
    shown: list[Headline] = []
    pool, curated = (found.layout.manifest(role) for role in ("pool", "curated"))
    if pool is not None and curated is not None:
        shown.append(
            Headline(f"{curated.rows:,}", f"kept of a pool of {pool.rows:,}, {percent(curated.rows, pool.rows)}")
        )
    kept, passed = learnability(found)
    if kept is not None and passed is not None:
        shown.append(
            Headline(
                f"{pictures.signed(kept)} / {pictures.signed(passed)}", "nats of learnability: picked / passed over"
            )
        )
    before, after = found.pool_noise, _noise(found, "curated")
    if before is not None and after is not None:
        shown.append(Headline(f"{before:.1%} → {after:.1%}", "wrong pairs: pool → curated"))
    if (most := most_drifted(found)) is not None:
        shown.append(Headline(f"{most.drift('curated'):.3f} bits", f"the largest drift, of {most.name}"))
    if found.downstream:
        curated_mean, control_mean, _ = found.downstream[0].means
        says = f"{found.downstream[0].metric} of models trained on curated / control"
        shown.append(Headline(f"{curated_mean.mean:.1%} / {control_mean.mean:.1%}", says))
    return shown


def sentences(found: Round) -> Iterator[str]:
    """What the round did."""
    pool, curated = (found.layout.manifest(role) for role in ("pool", "curated"))
    if pool is not None:
        kept = f", and {curated.rows:,} of these ({percent(curated.rows, pool.rows)}) were kept" if curated else ""
        yield f"Of {pool.counts.read:,} raw rows, {pool.rows:,} entered the pool{kept}."
    if found.log is not None and pool is not None:
        log = found.log
        times = f"{log.places / max(pool.rows, 1):.1f} times"
        yield (
            f"In {log.steps:,} steps the learner was offered a row {times} on average, and "
            f"made {log.picks:,} picks of {log.distinct:,} different rows."
        )
    kept_gain, passed_gain = learnability(found)
    if kept_gain is not None and passed_gain is not None:
        more = "more" if kept_gain > passed_gain else "less"
        yield (
            f"What it picked was {more} learnable than what it passed over: {pictures.signed(kept_gain)} against "
            f"{pictures.signed(passed_gain)} nats, the mean over all logged steps."
        )
    yield from _of_the_truth(found)
    if (most := most_drifted(found)) is not None:
        yield drifts(most, "curated", f"It drifted most from the pool in {most.name}")
    if found.downstream:
        curated_mean, control_mean, difference = found.downstream[0].means
        error = f" ± {100 * difference.error:.1f}" if difference.error is not None else ""
        seeds = len(found.downstream[0].seeds)
        yield (
            f"Models trained on it reach {curated_mean.mean:.1%} {found.downstream[0].metric}, on the uniform control "
            f"{control_mean.mean:.1%}: a difference of {100 * difference.mean:+.1f}{error} points over {seeds} "
            f"{'seeds' if seeds > 1 else 'seed'}."
        )


def _of_the_truth(found: Round) -> Iterator[str]:
    before, after = found.pool_noise, _noise(found, "curated")
    if before is None:
        return
    control = _noise(found, "uniform")
    parts = [f"{before:.1%} of the pool"]
    parts += [f"{control:.1%} of the uniform control"] if control is not None else []
    parts += [f"{after:.1%} of the curated set"] if after is not None else []
    yield f"Wrong pairs are {', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}."


def drifts(measure: Measure, dataset: str, begins: str) -> str:
    """One sentence on the drift of a dataset, beside chance."""
    drift, noise = measure.drift(dataset), measure.noise[dataset]
    if drift <= noise:
        return (
            f"{begins}: by {drift:.3f} bits, no more than chance (a random sample of its size stays below {noise:.3f})."
        )
    if noise < 0.0005:
        stays = "stays below 0.001" if noise else "has none"
        return f"{begins}: by {drift:.3f} bits, where a random sample of its size {stays}."
    times = f"{_times(drift / noise)} times what a random sample of its size stays below"
    return f"{begins}: by {drift:.3f} bits, {times} ({noise:.3f})."


def most_drifted(found: Round) -> Measure | None:
    """The measure in which the curated set is furthest from the pool."""
    able = [measure for measure in found.measures if measure.varies and "curated" in measure.counts]
    return max(able, key=lambda measure: measure.drift("curated"), default=None)


def learnability(found: Round) -> tuple[float | None, float | None]:
    """Of what was picked and of what was passed over: means over the logged steps, nats."""
    curves = found.curves.get("distill", {})
    return _mean(curves.get("learnability_kept")), _mean(curves.get("learnability_passed"))


def percent(part: int, whole: int) -> str:
    """A share in words."""
    return f"{part / whole:.1%}" if whole else "none"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _mean(points: Points | None) -> float | None:
    return sum(value for _, value in points) / len(points) if points else None


def _noise(found: Round, dataset: str) -> float | None:
    return found.surveys[dataset].noise(truth.WRONG) if dataset in found.surveys else None
