"""The plot of docs/performance.md: what a selection takes as the super-batch grows."""

from pathlib import Path
from typing import Any

FORMS = {"published": "published form", "ours": "ours", "products": "bare products"}
_COLOURS = {"published": "#c23b22", "ours": "#1f5fa8", "products": "#8a8a8a"}


def draw(path: Path, result: dict[str, Any]) -> None:
    """Draws time and peak memory at f = 0.8 and the first width into an SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "superbatch", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot as plt

    memory, width = peaks(result), result["compared"][0]["width"]
    figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rows = [row for row in result["compared"] if row["width"] == width and has_peak(row)]
    for form, label in FORMS.items():
        points = [(row["candidates"], row["seconds"][form]) for row in rows]
        if form == "ours":
            points += [(row["candidates"], row["seconds"]) for row in result["alone"] if row["width"] == width]
        time_axis.loglog(*zip(*points, strict=True), marker="o", ms=3, color=_COLOURS[form], label=label)
        points = [(size, peak) for (of, size, wide), peak in memory.items() if of == form and wide == width]
        if points:
            memory_axis.loglog(*zip(*points, strict=True), marker="o", ms=3, color=_COLOURS[form], label=label)
    growth = [(row["candidates"], row["seconds"]) for row in result["growth"]["rows"]]
    b = result["growth"]["rows"][0]["subbatch"]
    time_axis.loglog(*zip(*growth, strict=True), "--", color=_COLOURS["ours"], lw=1, label=f"ours, b = {b:,} fixed")
    time_axis.set(title=f"seconds a selection, d = {width}, f = 0.8", xlabel="super-batch B")
    memory_axis.set(title="peak bytes beyond the inputs", xlabel="super-batch B")
    for axis in (time_axis, memory_axis):
        axis.grid(which="major", alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def peaks(result: dict[str, Any]) -> dict[tuple[str, int, int], int]:
    """Peak bytes by form, candidates and width."""
    return {(row["form"], row["candidates"], row["width"]): row["bytes"] for row in result["memory"]}


def has_peak(row: dict[str, Any]) -> bool:
    """Whether memory was measured at a row's filter ratio."""
    return row["filter_ratio"] == 0.8
