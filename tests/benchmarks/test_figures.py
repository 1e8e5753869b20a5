"""The summary: shares counted with the truth."""

import json

from benchmarks import figures
from benchmarks.study import whole_rounds
from infra import round as rounds
from schemas import manifest as manifests
from schemas import records, shards


def test_summary_of_a_round(miniature, tmp_path):
    settings = rounds.read(str(miniature.parent / "round.toml"))
    pool = shards.open_dataset(str(miniature / "corpora/pool"), manifests.read(str(miniature / "corpora/pool")))
    uids = [records.record_uid(row) for row in pool.read(range(len(pool)))]
    truth = {uid: "matched" if i % 4 else "mismatched" for i, uid in enumerate(uids)}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    summary = figures.summarise(settings, tmp_path / "truth.json", seconds=1.0)
    assert summary["mismatched"]["pool"] == 0.25
    curated = shards.open_dataset(str(miniature / "curated"), manifests.read(str(miniature / "curated")))
    wrong = [truth[records.record_uid(row)] == "mismatched" for row in curated.read(range(16))]
    assert summary["mismatched"]["curated"] == sum(wrong) / 16
    assert [len(runs) for runs in summary["downstream_recall_at_1"].values()] == [1, 1]
    lines = figures.table(summary).splitlines()
    assert lines[1].split()[:3] == ["pool", "96", "75.0%"]
    shown = whole_rounds.shown(json.loads(json.dumps(summary))).splitlines()
    assert "| pool | 96 | 75.0% | 25.0% | 0.0% |" in shown
    [seed], [run] = settings.downstream_seeds, summary["downstream"]["curated"]
    recalls = " | ".join(f"{100 * run[name]:.1f}" for name in figures.RECALLS)
    assert f"| curated | {seed} | {recalls} |" in shown
