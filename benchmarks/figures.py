"""What a finished round was worth, scored with the truth that no stage saw.

Enters: a round's directory, the truth of its pool, and the seconds it took. Leaves: `summary.json`. The pictures are in
the round's report (`superbatch report`), which finds the same truth.
"""

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.noise import Truth
from infra.round import Round
from schemas import manifest as manifests
from schemas import records, shards

RECALLS = {
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
        "seeds": list(settings.downstream_seeds),
        "downstream": evaluations,
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
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
    lines.append(f"{'trained on':<16}" + "".join(f"{name:>17}" for name in RECALLS.values()))
    for label, runs in summary["downstream"].items():
        lines += [f"{label:<16}" + "".join(f"{run[name]:>17.1%}" for name in RECALLS) for run in runs]
    return "\n".join(lines)


def write(settings: Round, summary: dict[str, Any]) -> Path:
    """Writes `summary.json`; returns its path."""
    path = Path(settings.output) / "summary.json"
    if path.exists() and (before := json.loads(path.read_text()))["fingerprints"] == summary["fingerprints"]:
        summary = summary | {"seconds": max(before["seconds"], summary["seconds"])}  # a rerun only looked on
    path.write_text(json.dumps(summary, indent=2) + "\n")
    return path


def _uids(directory: Path) -> Iterable[str]:
    return (records.record_uid(row) for row in _rows(directory))


def _rows(directory: Path) -> Iterable[bytes]:
    manifest = manifests.read(str(directory), kind="corpus")
    for shard in manifest.shards:
        yield from shards.read_all(directory / shard.name, shard.rows)
