"""docs/results.md and its plots from the stored records: `python -m benchmarks.study.page`.

The page's words are written by hand; what stands between `<!-- study: NAME -->` and `<!-- end of study -->` is written
here, so that no figure or verdict can differ from what was measured. What has not been run is said to be missing.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.study import plots
from benchmarks.study.cells import SEEDS, VARIANTS, of_seeds, ratio_of, rounded
from benchmarks.study.corpora import NAMES
from benchmarks.study.experiments import NOISES, jest, uniform
from benchmarks.study.sections import SECTIONS
from benchmarks.study.store import RESULTS, Store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
HEADLINE = RESULTS.parent / "headline.json"
_END = "<!-- end of study -->"
# What the headline figures are of; chosen before the study was run.
STEPS_VARIANT, OPERATIONS_VARIANT = "JEST, f = 0.9", "Flexi-JEST, f = 0.8"


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

    `steps_ratio` is of `STEPS_VARIANT` and `flops_ratio` of `OPERATIONS_VARIANT`; null where most seeds never get
    there. What has not been run has no entry.
    """
    rows = []
    for corpus in NAMES:
        for noise in NOISES:
            variants = STEPS_VARIANT, OPERATIONS_VARIANT
            by_steps, by_operations = (ratio_of(records, corpus, noise, variant) for variant in variants)
            if by_steps is None or by_operations is None:
                continue
            runs = {"uniform": of_seeds(uniform, corpus, noise)}
            runs |= {v: of_seeds(jest, corpus, noise, **VARIANTS[v]) for v in variants}
            files = {f"study/{records[run]['file']}" for listed in runs.values() for run in listed}
            rows.append(
                {
                    "corpus": corpus,
                    "noise": noise,
                    "steps_ratio": rounded(by_steps.steps_median),
                    "steps_ratio_of_seeds": [rounded(value) for value in by_steps.steps],
                    "steps_of": STEPS_VARIANT,
                    "flops_ratio": rounded(by_operations.operations_median),
                    "flops_ratio_of_seeds": [rounded(value) for value in by_operations.operations],
                    "flops_of": OPERATIONS_VARIANT,
                    "seeds": list(SEEDS),
                    "result_files": sorted(files),
                    "runs": {name: [records[run]["name"] for run in listed] for name, listed in runs.items()},
                }
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
