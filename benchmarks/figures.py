"""What a finished round was worth, scored with the truth that no stage saw.

Enters: a round's directory, the truth of its pool, and the seconds it took. Leaves: `summary.json`, and `summary.html`
with the same figures and a grid of kept and dropped examples.
"""

import base64
import html
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.noise import Truth
from infra.round import Round
from schemas import manifest as manifests
from schemas import records, shards

_GRID = 32
_RECALLS = {
    "text_to_image_recall_at_1": "text→image R@1",
    "image_to_text_recall_at_1": "image→text R@1",
    "text_to_image_recall_at_10": "text→image R@10",
}


def summarise(settings: Round, truth_path: Path, seconds: float) -> dict[str, Any]:
    """Collects the figures of the first round.

    `mismatched` is the share of pairs whose caption does not describe the picture: another's caption, or boilerplate;
    `kinds` tells the two apart. `downstream_recall_at_1` is the mean of both directions.
    """
    root = Path(settings.output)
    truth = {uid: Truth(kind) for uid, kind in json.loads(truth_path.read_text()).items()}
    datasets = {
        "pool": root / "corpora" / "pool",
        "control": root / "control" / "uniform",
        "top_reference": root / "control" / "top_reference",
        "curated": root / "curated",
    }
    kinds = {name: Counter(truth[uid] for uid in _uids(path)) for name, path in datasets.items()}
    evaluations = {
        label: [
            json.loads((root / "evaluations" / f"downstream-{label}-{seed}.json").read_text())["figures"]
            for seed in settings.downstream_seeds
        ]
        for label in ("curated", "control")
    }
    return {
        "mismatched": {name: 1 - share(kinds[name], Truth.MATCHED) for name in ("pool", "control", "curated")},
        "downstream_recall_at_1": {
            label: [
                (figures["text_to_image_recall_at_1"] + figures["image_to_text_recall_at_1"]) / 2 for figures in runs
            ]
            for label, runs in evaluations.items()
        },
        "seconds": seconds,
        "fingerprints": {
            name: manifests.read(str(root / path)).fingerprint
            for name, path in {
                "pool": "corpora/pool",
                "embeddings": "embeddings",
                "selections": "workdirs/distill/selections",
                "curated": "curated",
            }.items()
        },
        "kinds": {name: {str(kind): share(counted, kind) for kind in Truth} for name, counted in kinds.items()},
        "rows": {name: sum(counted.values()) for name, counted in kinds.items()},
        "downstream": evaluations,
    }


def share(counted: Counter[Truth], kind: Truth) -> float:
    """The share of one kind among all."""
    return counted[kind] / sum(counted.values())


def table(summary: dict[str, Any]) -> str:
    """The figures for a terminal."""
    lines = [f"{'':<16}{'rows':>8}{'matched':>10}{'mismatched':>12}{'boilerplate':>13}"]
    for name, kinds in summary["kinds"].items():
        cells = f"{kinds['matched']:>10.1%}{kinds['mismatched']:>12.1%}{kinds['boilerplate']:>13.1%}"
        lines.append(f"{name:<16}{summary['rows'][name]:>8}{cells}")
    lines.append("")
    lines.append(f"{'trained on':<16}" + "".join(f"{name:>17}" for name in _RECALLS.values()))
    for label, runs in summary["downstream"].items():
        lines += [f"{label:<16}" + "".join(f"{run[name]:>17.1%}" for name in _RECALLS) for run in runs]
    return "\n".join(lines)


def write(settings: Round, truth_path: Path, summary: dict[str, Any], credit: str) -> Path:
    """Writes `summary.json` and `summary.html` (which names the pictures' source); returns the page's path."""
    root = Path(settings.output)
    earlier = root / "summary.json"
    if earlier.exists() and (before := json.loads(earlier.read_text()))["fingerprints"] == summary["fingerprints"]:
        summary = summary | {"seconds": max(before["seconds"], summary["seconds"])}  # a rerun only looked on
    (root / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    truth = json.loads(truth_path.read_text())
    curated = set(_uids(root / "curated"))
    kept, dropped = [], []
    for example in _examples(root / "corpora" / "pool"):  # shuffled, so the first are a sample
        side = kept if example.uid in curated else dropped
        if len(side) < _GRID:
            side.append(example)
        if len(kept) == len(dropped) == _GRID:
            break
    page = _PAGE.format(
        title=html.escape(f"{settings.name}: one round"),
        figures=html.escape(table(summary)),
        kept=_grid(kept, truth),
        dropped=_grid(dropped, truth),
        credit=html.escape(credit),
    )
    path = root / "summary.html"
    path.write_text(page)
    return path


def _grid(examples: list[records.Example], truth: dict[str, str]) -> str:
    cells = []
    for example in examples:
        kind, text = truth[example.uid], html.escape(example.text)
        picture = base64.b64encode(example.image).decode()
        cells.append(
            f'<figure class="{kind}"><img src="data:image;base64,{picture}" alt="{text}" width="64" height="64">'
            f'<figcaption><span lang="{html.escape(example.language)}">{text}</span><b>{kind}</b></figcaption></figure>'
        )
    return "\n".join(cells)


def _examples(directory: Path) -> Iterable[records.Example]:
    for row in _rows(directory):
        yield records.decode_example(row)


def _uids(directory: Path) -> Iterable[str]:
    return (records.record_uid(row) for row in _rows(directory))


def _rows(directory: Path) -> Iterable[bytes]:
    manifest = manifests.read(str(directory), kind="corpus")
    for shard in manifest.shards:
        yield from shards.read_all(directory / shard.name, shard.rows)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --good: #2a7d4f; --bad: #b3423a; --dull: #8a7a2f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --good: #6fcf97; --bad: #ef8d84; --dull: #d9c25f; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ overflow-x: auto; font-size: .85rem; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .75rem; }}
figure {{ margin: 0; padding: .5rem; border: 1px solid; border-radius: .4rem; text-align: center; }}
figure img {{ background: #fff; border-radius: .3rem; }}
figcaption {{ font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; }}
figcaption b {{ display: block; }}
.matched {{ border-color: var(--good); }} .matched b {{ color: var(--good); }}
.mismatched {{ border-color: var(--bad); }} .mismatched b {{ color: var(--bad); }}
.boilerplate {{ border-color: var(--dull); }} .boilerplate b {{ color: var(--dull); }}
</style>
<h1>{title}</h1>
<pre>{figures}</pre>
<p>The labels are the truth, which no stage of the round saw. Every picture is a random example of its side.</p>
<h2>Kept</h2>
<div class="grid">
{kept}
</div>
<h2>Dropped</h2>
<div class="grid">
{dropped}
</div>
<footer><p>{credit}</p></footer>
</html>
"""
