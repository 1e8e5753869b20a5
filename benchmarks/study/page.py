"""docs/results.md and its plots from the stored records: `python -m benchmarks.study.page`.

The page's words are written by hand; what stands between `<!-- study: NAME -->` and `<!-- end of study -->` is written
here, so that no figure or verdict can differ from what was measured. What has not been run is said to be missing.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.study import overview, plots, whole_rounds
from benchmarks.study.cells import judged
from benchmarks.study.corpora import NAMES
from benchmarks.study.sections import QUESTIONS, Answer
from benchmarks.study.store import RESULTS, Store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
HEADLINE = RESULTS.parent / "headline.json"
_END = "<!-- end of study -->"


def _sections() -> dict[str, Callable[[Store], str]]:
    """What is written, by the name of its place."""
    return {
        "in short": overview.in_short,
        "what was run": overview.what_was_run,
        **{name: functools.partial(_answered, ask) for name, ask in QUESTIONS.items()},
        **{f"whole round, {corpus}": whole_rounds.section(corpus) for corpus in NAMES},
    }


def _answered(ask: Callable[[Store], Answer], records: Store) -> str:
    answer = ask(records)
    words = (f"{claim}. {judged(compared)}" for claim, compared in answer.claims.items())
    return "\n\n".join([answer.shown.strip(), *words])


def main() -> int:
    """Writes the page, its plots and headline.json; returns the exit code."""
    records = Store()
    PAGE.write_text(rendered(PAGE.read_text(), records))
    HEADLINE.write_text(json.dumps(overview.headline(records), indent=2) + "\n")
    plots.draw_all(PAGE.parent, records)
    written = " and ".join(str(path.relative_to(ROOT)) for path in (PAGE, HEADLINE))
    print(f"{written} are written from {len(records)} runs in {RESULTS.relative_to(ROOT)}")
    return 0


def rendered(page: str, records: Store) -> str:
    """The page with every section's figures in their place."""
    for name, render in _sections().items():
        start = f"<!-- study: {name} -->\n"
        if page.count(start) != 1:
            raise ValueError(f"the page has {page.count(start)} places for {name!r}; it must have one")
        before, after = page.split(start)
        page = before + start + render(records).strip() + "\n" + after[after.index(_END) :]
    return page


if __name__ == "__main__":
    sys.exit(main())
