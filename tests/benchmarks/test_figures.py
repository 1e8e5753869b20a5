"""The summary: shares counted with the truth, a page that hostile captions cannot break."""

import json

from benchmarks import figures
from infra import round as rounds
from schemas import manifest as manifests
from schemas import records, shards


def test_summary_and_page_of_a_round(miniature, tmp_path):
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


def test_captions_are_text_on_the_page():
    hostile = records.Example(
        image=b"x", text='"><script>alert(1)</script>', uid="u", image_id="i", language='en"', url="", source="s",
        width=1, height=1,
    )  # fmt: skip
    cell = figures._grid([hostile], {"u": "matched"})
    assert "<script>" not in cell
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in cell
    assert 'lang="en&quot;"' in cell
