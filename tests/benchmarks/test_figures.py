"""The summary: shares counted with the truth."""

import json

from benchmarks import figures
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
