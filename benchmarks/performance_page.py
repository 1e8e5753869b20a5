"""The tables and plots of docs/performance.md, from `benchmarks/results/`: `python -m benchmarks.performance_page`.

The page's words are written by hand; what stands between `<!-- figures: NAME -->` and `<!-- end of figures -->` is
written here, so that no figure on the page can differ from what was measured. So it is with docs/operations.md.
"""

import json
from pathlib import Path

from benchmarks import performance_sections, selection_plot

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
OPERATIONS = ROOT / "docs" / "operations.md"
SECTIONS = {PAGE: performance_sections.PERFORMANCE, OPERATIONS: performance_sections.OPERATIONS}
RESULTS = Path(__file__).parent / "results"


def write() -> None:
    """Renders every result file into its place on its page, and draws the plots."""
    for page in SECTIONS:
        page.write_text(rendered(page.read_text(), page))
    for path in _files("selection"):
        picture = PAGE.with_name(performance_sections.picture(_machine(path, "selection")))
        selection_plot.draw(picture, json.loads(path.read_text()))


def rendered(page: str, path: Path = PAGE) -> str:
    """The page with the figures of every section that it has in their place."""
    for name, render in SECTIONS[path].items():
        figures = "\n".join(render(_machine(path, name), json.loads(path.read_text())) for path in _files(name))
        start, end = f"<!-- figures: {name} -->\n", "<!-- end of figures -->"
        if page.count(start) != 1:
            raise ValueError(f"the page has {page.count(start)} places for the figures of {name!r}; it must have one")
        before, after = page.split(start)
        page = before + start + figures + "\n" + after[after.index(end) :]
    return page


def _machine(path: Path, name: str) -> str:
    return path.stem.removeprefix(f"{name}-")


def _files(name: str) -> list[Path]:
    return sorted(RESULTS.glob(f"{name}-*.json"))


if __name__ == "__main__":
    write()
