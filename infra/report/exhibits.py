"""The charts of one round's page, each with the sentence that it shows.

Enters: a `Round`. Leaves: figures; those whose numbers are missing are left out.
"""

from infra.report import charts, pictures, story
from infra.report.charts import Figure, Series
from infra.report.collect import Round
from infra.report.curves import Points
from infra.report.story import TITLES


def curves(found: Round) -> list[Figure]:
    """Losses, learnability, noise and scores over the steps of training."""
    figures = [
        charts.lines(
            f"Loss of {_of(name)}",
            _moves("The loss", by_metric["loss"]),
            [Series("loss", "curated", by_metric["loss"])],
            x="step",
            y="nats",
        )
        for name in ("reference", "distill")
        if "loss" in (by_metric := found.curves.get(name, {}))
    ]
    if downstream := losses_downstream(found):
        ends = " and ".join(f"{one.points[-1][1]:.3g} on {one.name}" for one in downstream)
        title, finding = "Loss of the models trained downstream", f"Means over the seeds end at {ends}, in nats."
        figures.append(charts.lines(title, finding, downstream, x="step", y="nats"))
    kept, passed = (found.curves.get("distill", {}).get(f"learnability_{side}") for side in ("kept", "passed"))
    if kept and passed:
        above = sum(a > b for (_, a), (_, b) in zip(kept, passed, strict=False))
        finding = f"What was picked is the more learnable at {above} of {len(kept)} logged points."
        both = [Series("picked", "curated", kept), Series("passed over", "pool", passed)]
        figures.append(charts.lines("Learnability", finding, both, x="step", y="learner − reference, nats"))
    if found.noise and found.pool_noise is not None:
        below = sum(share < found.pool_noise for _, share in found.noise)
        points = f"{below} of {len(found.noise)} points"
        finding = f"The share of wrong pairs lies below the pool's {found.pool_noise:.1%} at {points}."
        figures.append(
            charts.lines(
                "Wrong pairs among each step's picks", finding,
                [Series("picked", "curated", found.noise), _level("the pool", found.noise, found.pool_noise)],
                x="step", y="share of picks", percent=True,
            )
        )  # fmt: skip
    if found.quantiles:
        median = len(found.quantiles[0][1]) // 2
        first, last = found.quantiles[0][1][median], found.quantiles[-1][1][median]
        finding = (
            f"The median goes from {pictures.signed(first)} to {pictures.signed(last)}. Half of the candidates lie in "
            "the inner band, nine tenths in the outer."
        )
        figures.append(charts.fan("Scores of all candidates", finding, found.quantiles, x="step", y="score"))
    return figures


def losses_downstream(found: Round) -> list[Series]:
    """The mean loss over the seeds, of either side; where their steps agree."""
    means = []
    for label, style in (("curated", "curated"), ("control", "uniform")):
        runs = [c["loss"] for name, c in found.curves.items() if name.startswith(f"{label} ") and "loss" in c]
        if runs and len({tuple(step for step, _ in run) for run in runs}) == 1:
            mean = [
                (points[0][0], sum(value for _, value in points) / len(points)) for points in zip(*runs, strict=True)
            ]
            means.append(Series(TITLES[style], style, mean))
    return means


def _level(name: str, beside: Points, value: float) -> Series:
    return Series(name, "pool", [(beside[0][0], value), (beside[-1][0], value)])


def distributions(found: Round) -> list[Figure]:
    """What varies among the rows of the datasets."""
    figures = []
    for measure in found.measures:
        if measure.varies:
            finding = story.drifts(measure, "curated", "The curated set drifts") if "curated" in measure.noise else ""
            figures.append(charts.distribution(measure, finding, TITLES))
    return figures


def visits(found: Round) -> list[Figure]:
    """How often rows were picked."""
    if found.log is None:
        return []
    rows = sum(count for _, count in found.log.visits)
    never = dict(found.log.visits)["0"]
    finding = (
        f"Of {rows:,} rows, {found.log.never_offered:,} were never offered, {never:,} offered and never picked, and "
        f"{found.log.distinct:,} picked at least once."
    )
    counts = [(label, count) for label, count in found.log.visits if count or label not in ("never offered", "0")]
    return [charts.bars("Rows by number of picks", finding, counts, x="picks", y="rows")]


def _of(name: str) -> str:
    return {"reference": "the reference", "distill": "the learner"}.get(name, name)


def _moves(subject: str, points: Points) -> str:
    if len(points) == 1:
        return f"{subject} is {points[0][1]:.3g} at the one step that was logged."
    return f"{subject} goes from {points[0][1]:.3g} to {points[-1][1]:.3g} nats."
