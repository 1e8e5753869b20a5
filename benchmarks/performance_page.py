"""The tables and plots of docs/performance.md, from `benchmarks/results/`: `python -m benchmarks.performance_page`.

The page's words are written by hand; what stands between `<!-- figures: NAME -->` and `<!-- end of figures -->` is
written here, so that no figure on the page can differ from what was measured.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results"
_COLOURS = {"published": "#c23b22", "ours": "#1f5fa8", "products": "#8a8a8a"}
_LABELS = {"published": "published form", "ours": "ours", "products": "bare products"}


def write() -> None:
    """Renders every result file into its place on the page, and draws the plots."""
    PAGE.write_text(rendered(PAGE.read_text()))
    for path in _files("selection"):
        _plot_selection(_picture(_machine(path, "selection")), json.loads(path.read_text()))


def rendered(page: str) -> str:
    """The page with every section's figures in their place."""
    for name, render in _SECTIONS.items():
        figures = "\n".join(render(_machine(path, name), json.loads(path.read_text())) for path in _files(name))
        start, end = f"<!-- figures: {name} -->\n", "<!-- end of figures -->"
        if page.count(start) != 1:
            raise ValueError(f"the page has {page.count(start)} places for the figures of {name!r}; it must have one")
        before, after = page.split(start)
        page = before + start + figures + "\n" + after[after.index(end) :]
    return page


def _machine(path: Path, name: str) -> str:
    return path.stem.removeprefix(f"{name}-")


def _picture(machine: str) -> str:
    return f"performance-selection-{machine}.svg"


def _files(name: str) -> list[Path]:
    return sorted(RESULTS.glob(f"{name}-*.json"))


def _selection(machine: str, result: dict[str, Any]) -> str:
    memory = _memory(result)

    def compared(row: dict[str, Any]) -> list[str]:
        seconds, size = row["seconds"], (row["candidates"], row["width"])
        published, ours = (memory.get((form, *size)) for form in ("published", "ours"))
        peaks = [""] * 3
        if _has_memory(row) and published and ours:
            peaks = [_bytes(published), _bytes(ours), f"1/{published / ours:,.0f}"]
        return [
            f"{row['candidates']:,}",
            str(row["width"]),
            f"{row['filter_ratio']:g}",
            *(_seconds(seconds[form]) for form in _LABELS),
            f"**{row['speedup']:.1f}×**",
            f"{row['over_products']:.2f}×",
            *peaks,
            _difference(row["swapped"]),
        ]

    def alone(row: dict[str, Any]) -> list[str]:
        size = row["candidates"], row["width"]
        peak = _bytes(memory["ours", *size]) if ("ours", *size) in memory else ""
        matrices = _bytes(2 * 4 * row["candidates"] ** 2)
        time = [_seconds(row["seconds"]), str(row["runs"])]
        return [f"{size[0]:,}", str(size[1]), f"{row['subbatch']:,}", *time, peak, matrices]

    growth = result["growth"]
    grown = [[f"{row['candidates']:,}", _seconds(row["seconds"])] for row in growth["rows"]]
    return "\n".join(
        [
            _heading(result["machine"]),
            f"![Time and peak memory over the super-batch, both axes logarithmic]({_picture(machine)})\n",
            _table("B | d | f | published | ours | bare products | faster by | over products | peak, published "
                   "| peak, ours | share | picks", map(compared, result["compared"])),
            "Ours alone, f = 0.8, where the published form's two matrices would take what the last column says:\n",
            _table("B | d | b | time | runs | peak | B × B matrices", map(alone, result["alone"])),
            f"Growth at a fixed sub-batch of b = {growth['rows'][0]['subbatch']:,}, d = {growth['rows'][0]['width']}: "
            f"time ∝ B^**{growth['exponent']:.2f}** (least squares over the logarithms).\n",
            _table("B | time", grown),
        ]
    )  # fmt: skip


def _chunk(_: str, result: dict[str, Any]) -> str:
    rows = [
        [row["form"], _seconds(row["seconds"]), f"{row['ratio']:.2f}×", _bytes(row["temporaries"])]
        for row in result["rows"]
    ]
    near = [[f"{row['within']:g}", f"{row['candidates_per_pick']:.2f}"] for row in result["near_the_cut"]]
    return "\n".join(
        [
            _heading(result["machine"]),
            f"B = {result['candidates']:,}, d = {result['width']}, f = 0.8, 16 chunks.\n",
            _table("form | time of a product | over the bare product | XLA's temporaries", rows),
            _table("ε | candidates within ε of the cut or above it, per pick", near),
        ]
    )


def _object_storage(_: str, result: dict[str, Any]) -> str:
    forms = list(dict.fromkeys(row["form"] for row in result["rows"]))
    cases: dict[tuple[float, int, int], dict[str, Any]] = {}
    for row in result["rows"]:
        cases.setdefault((row["delay"], row["block"], row["threads"]), {})[row["form"]] = row
    table = [
        [
            f"{1000 * delay:.0f} ms", str(block), str(threads),
            *(f"{case[form]['rows_per_second']:,.0f}" for form in forms),
            *(f"{case[form]['requests_per_block']:.3g}" for form in forms),
            *(f"{case[form]['bytes_over_size']:.2g}×" for form in forms),
        ]
        for (delay, block, threads), case in cases.items()
    ]  # fmt: skip
    measured = (f"{form}, {what}" for what in ("rows/s", "requests a block", "bytes sent") for form in forms)
    machine = result["machine"]
    return "\n".join(
        [
            f"### {machine['cores']} CPU cores, loopback, ArrayRecord {machine['array_record']}\n",
            f"{result['shards']} shards of {result['rows_per_shard']} rows of {result['row_bytes'] / 1000:.0f} kB.\n",
            _table(" | ".join(["wait", "block", "threads", *measured]), table),
        ]
    )


_SECTIONS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "selection": _selection,
    "chunk": _chunk,
    "object-storage": _object_storage,
}


def _plot_selection(name: str, result: dict[str, Any]) -> None:
    """Draws time and peak memory at f = 0.8 and the first width into a file beside the page."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "superbatch", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot as plt

    memory, width = _memory(result), result["compared"][0]["width"]
    figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rows = [row for row in result["compared"] if row["width"] == width and _has_memory(row)]
    for form, label in _LABELS.items():
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
    figure.savefig(PAGE.with_name(name), metadata={"Date": None})
    plt.close(figure)


def _difference(swapped: dict[str, float]) -> str:
    if swapped["places"] == 0:
        return "equal"
    return f"{swapped['places']} in another place, within {swapped['within']:.0e}"


def _memory(result: dict[str, Any]) -> dict[tuple[str, int, int], int]:
    return {(row["form"], row["candidates"], row["width"]): row["bytes"] for row in result["memory"]}


def _has_memory(row: dict[str, Any]) -> bool:
    return row["filter_ratio"] == 0.8


def _heading(machine: dict[str, Any]) -> str:
    device = f"{machine['cores']} CPU cores" if machine["device"] == "cpu" else machine["device"]
    return f"### {device}, JAX {machine['jax']}\n"


def _table(header: str, rows: Iterable[list[str]]) -> str:
    columns = [column.strip() for column in header.split("|")]
    rules = [":--" if column in ("form", "picks") else "--:" for column in columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(rules) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


if __name__ == "__main__":
    write()
