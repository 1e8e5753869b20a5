"""docs/results.md and its plots from the stored records: `python -m benchmarks.study.page`.

The page's words are written by hand; what stands between `<!-- study: NAME -->` and `<!-- end of study -->` is written
here, so that no figure or verdict can differ from what was measured. What has not been run is said to be missing.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.study import plots
from benchmarks.study.analysis import has_learned, median
from benchmarks.study.cells import BY_OPERATIONS, BY_STEPS, SEEDS, of_seeds, ratio_of, rounded
from benchmarks.study.claims import found
from benchmarks.study.corpora import NAMES
from benchmarks.study.experiments import NOISES, jest, uniform
from benchmarks.study.sections import SECTIONS
from benchmarks.study.store import RESULTS, Store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
HEADLINE = RESULTS.parent / "headline.json"
_END = "<!-- end of study -->"


def main() -> int:
    """Writes the page, its plots and headline.json; returns the exit code."""
    records = Store()
    PAGE.write_text(rendered(PAGE.read_text(), records))
    HEADLINE.write_text(json.dumps(headline(records), indent=2) + "\n")
    plots.draw_all(PAGE.parent, records)
    written = " and ".join(str(path.relative_to(ROOT)) for path in (PAGE, HEADLINE))
    print(f"{written} are written from {len(records)} runs in {RESULTS.relative_to(ROOT)}")
    return 0


def rendered(page: str, records: Store) -> str:
    """The page with every section's figures in their place."""
    for name, render in SECTIONS.items():
        start = f"<!-- study: {name} -->\n"
        if page.count(start) != 1:
            raise ValueError(f"the page has {page.count(start)} places for {name!r}; it must have one")
        before, after = page.split(start)
        page = before + start + render(records).strip() + "\n" + after[after.index(_END) :]
    return page


def headline(records: Store) -> list[dict[str, Any]]:
    """How much sooner JEST is where the uniform learner is best, by corpus and noise: medians over the seeds.

    `steps_ratio` compares learners with as many steps, `flops_ratio` learners with as many operations. Each is the best
    variant's, which `steps_of` and `flops_of` name, and null where most seeds never get there with any. All variants
    are there, seed by seed. What has not been run has no entry.
    """
    rows = []
    for corpus in NAMES:
        for noise in NOISES:
            base = found(records, of_seeds(uniform, corpus, noise))
            by_steps = {name: ratio_of(records, corpus, noise, changes) for name, changes in BY_STEPS.items()}
            by_operations = {name: ratio_of(records, corpus, noise, changes) for name, changes in BY_OPERATIONS.items()}
            steps = {name: ratio.steps for name, ratio in by_steps.items() if ratio}
            operations = {name: ratio.operations for name, ratio in by_operations.items() if ratio}
            if base is None or not steps or not operations:
                continue
            runs = {"uniform": of_seeds(uniform, corpus, noise)}
            runs |= {f"{name}, as many steps": of_seeds(jest, corpus, noise, **BY_STEPS[name]) for name in steps}
            runs |= {name: of_seeds(jest, corpus, noise, **BY_OPERATIONS[name]) for name in operations}
            files = {f"study/{records[run]['file']}" for listed in runs.values() for run in listed}
            rows.append(
                {"corpus": corpus, "noise": noise}
                | _best("steps", steps)
                | _best("flops", operations)
                | {
                    "uniform_has_learned": [has_learned(record) for record in base],
                    "seeds": list(SEEDS),
                    "result_files": sorted(files),
                    "runs": {name: [records[run]["name"] for run in listed] for name, listed in runs.items()},
                }
            )
    return rows


def _best(of: str, ratios: dict[str, list[float | None]]) -> dict[str, Any]:
    name = max(ratios, key=lambda name: median(ratios[name]) or 0.0)
    return {
        f"{of}_ratio": rounded(median(ratios[name])),
        f"{of}_of": name,
        f"{of}_of_seeds": {name: [rounded(value) for value in listed] for name, listed in ratios.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
