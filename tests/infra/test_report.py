"""The report of a round: its numbers add up or say that they do not, and nothing in a dataset becomes markup."""

import io
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra import cli
from infra.report import accounts, collect, compare, page, pictures, truth
from schemas import manifest as manifests
from schemas import records, rejections, shards
from schemas.errors import ConfigError
from schemas.rejections import Reason
from tests.conftest import picture, write_folder
from tests.hostile import images

LIMITS = collect.Limits(pictures=6, rows=1000)
ANYWHERE = replace(LIMITS, sources=True)
SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT, '"><img src=x onerror=alert(1)>', "</title></style><svg onload=alert(1)>", "' onmouseover='alert(1)",
    "invoice\u202egnp.exe", "\u2067reversed\x1b[31m\x07", "{{ 7 * 7 }} {% raw %} ${7*7}", "w" * 5000, "👩\u200d🚀 x",
]  # fmt: skip


@pytest.fixture
def copied(miniature, tmp_path) -> Path:
    """A round that a test may change."""
    return Path(
        shutil.copytree(miniature, tmp_path / "round", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    )


@pytest.fixture
def hostile(copied) -> Path:
    """A round whose rows say terrible things; every tenth picture of the pool is cut off."""
    for name in ("corpora/pool", "curated"):
        rewrite(copied / name, make_hostile)
    return copied


def rewrite(directory: Path, change: Callable[[int, records.Example], records.Example]) -> None:
    """Changes the rows of a dataset, and leaves its manifest as it is."""
    for shard in manifests.read(str(directory)).shards:
        rows = list(shards.read_all(directory / shard.name, shard.rows))
        (directory / shard.name).unlink()
        changed = [records.encode_example(change(i, records.decode_example(row))) for i, row in enumerate(rows)]
        shards.write_file(directory / shard.name, changed)


def make_hostile(row: int, example: records.Example) -> records.Example:
    return replace(
        example,
        text=HOSTILE[row % len(HOSTILE)],
        image=example.image[:60] if row % 10 == 3 else example.image,
        language=['"><b>', "en"][row % 2],
        url=["http://<svg onload=alert(1)>/", "https://example.org/x.png", ""][row % 3],
        source=f"{SCRIPT}@{row}",
    )


def report(*arguments: str, output: Path) -> str:
    assert cli.main(["report", *arguments, f"--output={output}"]) == 0
    return output.read_text()


def reseal(path: Path, **counts: int | dict) -> None:
    """Writes a manifest anew with other counts, as if the job had counted so."""
    manifest = manifests.read(str(path))
    changed = manifest.model_copy(update={"counts": manifest.counts.model_copy(update=counts)})
    sealed = changed.model_copy(update={"checksum": changed.compute_checksum()})
    (path / "manifest.json").write_bytes(manifests.serialise(sealed))


def rewrite_config(path: Path, **settings: str | None) -> None:
    """Writes a manifest anew with other settings, or without those that are None."""
    manifest = manifests.read(str(path))
    left_out = {name for name, value in settings.items() if value is None}
    config = {name: value for name, value in (manifest.config | settings).items() if name not in left_out}
    changed = manifest.model_copy(update={"config": config})
    sealed = changed.model_copy(update={"checksum": changed.compute_checksum()})
    (path / "manifest.json").write_bytes(manifests.serialise(sealed))


def test_the_counts_of_a_round_add_up_from_raw_rows_to_the_curated_set(miniature):
    found = collect.collect(str(miniature), None, ANYWHERE)
    assert found.accounts.findings == []
    left = 0
    for link in found.accounts.chain:
        if not link.stays:
            left -= link.rows
        elif left:
            assert link.rows == left, link
        left = link.rows if link.stays else left
    assert [(link.says, link.rows) for link in found.accounts.chain[:4]] == [
        ("raw rows read", 99), ("exact duplicates", 1), ("rejected", 2), ("rows of the pool", 96),
    ]  # fmt: skip
    assert found.accounts.chain[-1] == accounts.Link("curated", 16, stays=True)
    assert all(line.seconds for line in found.accounts.stages if not line.stage.endswith(" control"))
    assert [(line.stage, line.note) for line in found.accounts.stages[-4:]] == [
        ("train on curated, seed 0", "examples learned from"), ("evaluate curated, seed 0", "figures"),
        ("train on control, seed 0", "examples learned from"), ("evaluate control, seed 0", "figures"),
    ]  # fmt: skip
    assert sum(rows for _, rows in found.log.visits) == 96
    assert found.log.picks == 40
    assert [r.reason for r in found.rejected] == ["not an image", "truncated image", "not picked", "over budget"]
    assert [p.text for r in found.rejected for p in r.examples] == ["not found", "cut off"]
    assert found.downstream[0].metric == "recall at 1"


def test_the_page_is_whole_and_the_same_every_time(miniature, tmp_path, capsys):
    html = report(str(miniature), output=tmp_path / "one.html")
    assert re.search(r"report \S+one.html: \d+ pictures, 0\.\d MB$", capsys.readouterr().out.strip())
    assert html == report(str(miniature), output=tmp_path / "two.html")
    assert not re.search(r"<script|javascript:|\son\w+=|(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", html)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert html.count("<h1>") == 1
    assert "does not add up" not in html
    assert len(html) < 5e6
    for words in ("Learnability", "Kept, at random", "Picked most often", "mini_curated 1.0.0", "recall at 1"):
        assert words in html


def test_nothing_that_a_dataset_says_becomes_markup(hostile, tmp_path):
    html = report(str(hostile), output=tmp_path / "page.html")
    assert "<script" not in html
    assert "<svg onload" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "invoice\\u202egnp.exe" in html
    assert not set("\u202e\u2067\x1b\x07") & set(html)
    assert "{{ 7 * 7 }}" in html
    assert "👩\u200d🚀" in html
    assert "w" * 2001 not in html
    assert "(3,000 more characters)" in html
    assert "truncated image</div>" in html


def test_no_text_but_a_caption_is_longer_than_a_name(copied, tmp_path):
    long = {letter: letter * 30_000 for letter in "hkqvz"}

    def stretch(row: int, example: records.Example) -> records.Example:
        url = [f"http://{long['h']}/", ""][row % 2]
        return replace(example, url=url, source=f"{long['k']}@{row}", language=long["q"])

    rewrite(copied / "corpora/pool", stretch)
    for path in (copied / "corpora/pool/rejections").glob("*.parquet"):
        rejected = pq.read_table(path).to_pylist()
        changed = [row | {"source": f"{long['v']}{place}", "detail": long["z"]} for place, row in enumerate(rejected)]
        pq.write_table(pa.Table.from_pylist(changed, schema=rejections.SCHEMA), path)
    html = report(str(copied), output=tmp_path / "page.html")
    assert len(html) < 1e6
    for letter in long:
        assert letter * 199 + "…" in html
        assert letter * 200 not in html
    again = pictures.shown("\u202e" * 300)
    assert pictures.shown(again) == again
    assert len(again) == pictures.LONGEST_NAME


@pytest.mark.parametrize("name", ["corpora/pool", "curated", "workdirs/distill/selections"])
def test_a_count_that_was_altered_is_shown_loudly(copied, tmp_path, capsys, name):
    path = copied / name / "manifest.json"
    stored = json.loads(path.read_text())
    stored["counts"]["kept"] += 1
    path.write_text(json.dumps(stored))
    html = report(str(copied), output=tmp_path / "page.html")
    assert 'role="alert"' in html
    assert "This round does not add up" in html
    assert "was altered" in html or "counts do not add up" in html
    assert "DOES NOT ADD UP" in capsys.readouterr().out


def test_counts_that_contradict_the_log_are_found_though_each_manifest_is_sound(copied):
    rejected = {Reason.NOT_PICKED: 58, Reason.OVER_BUDGET: 22}
    reseal(copied / "curated", rejected=rejected)
    findings = collect.collect(str(copied), None, LIMITS).accounts.findings
    assert findings[0].startswith("curate: rows not picked are 58, pool less rows in the log 59: 1 rows are not")
    reseal(copied / "workdirs/distill/selections", kept=39, rejected={Reason.NOT_PICKED: 161})
    findings = collect.collect(str(copied), None, LIMITS).accounts.findings
    assert any(said.startswith("distill: picks counted are 39, picks in its log 40") for said in findings)


def test_an_artifact_made_of_something_else_is_found(copied):
    reference = manifests.read(str(copied / "curated"))
    other = reference.model_copy(update={"shards": reference.shards[::-1]})
    other = other.model_copy(update={"fingerprint": other.compute_fingerprint()})
    sealed = other.model_copy(update={"checksum": other.compute_checksum()})
    (copied / "curated/manifest.json").write_bytes(manifests.serialise(sealed))
    [finding] = collect.collect(str(copied), None, LIMITS).accounts.findings
    assert finding.startswith("train on curated, seed 0 was made of corpus ")


def test_the_truth_scores_where_it_is_known_and_is_said_to_be_unseen(miniature, tmp_path):
    pool = manifests.read(str(miniature / "corpora/pool"))
    uids = [records.record_uid(r) for r in shards.open_dataset(str(miniature / "corpora/pool"), pool).read(range(96))]
    kinds = {uid: truth.KINDS[place % 3] for place, uid in enumerate(uids)}
    (tmp_path / "truth.json").write_text(json.dumps(kinds))
    found = collect.collect(str(miniature), str(tmp_path / "truth.json"), LIMITS)
    assert found.pool_noise == pytest.approx(2 / 3)
    assert [step for step, _ in found.noise] == list(range(5))
    html = page.render(found)
    assert "no stage of the round saw it" in html
    assert "Wrong pairs are 66.7% of the pool" in html
    assert "✗ boilerplate" in html
    assert "Wrong pairs" not in page.render(collect.collect(str(miniature), None, LIMITS))


def test_a_truth_is_looked_for_in_the_output_of_the_round_and_not_above_it(copied, tmp_path):
    pool = manifests.read(str(copied / "corpora/pool"))
    [row] = shards.open_dataset(str(copied / "corpora/pool"), pool).read([0])
    known = {records.record_uid(row): "matched"}
    shutil.copytree(copied / "curated", copied / "round-2/curated")
    for place, first, second in ((tmp_path, {}, {}), (copied, known, known)):
        (place / "sources").mkdir()
        (place / "sources/truth.json").write_text(json.dumps(known))
        assert collect.collect(str(copied), None, LIMITS).truth == first
        assert collect.collect(str(copied / "round-2"), None, LIMITS).truth == second


@pytest.mark.parametrize(
    ("content", "words"),
    [("[]", "which holds list"), ('{"u": "wrong"}', "says 'wrong' of u; it must be matched"), ("{", "is not JSON")],
)
def test_a_truth_that_is_none_is_refused(tmp_path, content, words):
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(words)):
        truth.read(str(tmp_path / "truth.json"))
    with pytest.raises(ConfigError, match="does not exist"):
        truth.read(str(tmp_path / "no.json"))


def test_a_round_that_is_not_finished_is_reported_as_far_as_it_got(copied, tmp_path, capsys):
    (copied / "evaluations/downstream-curated-0.json").unlink()
    html = report(str(copied), output=tmp_path / "page.html")
    assert capsys.readouterr().out.strip().endswith("MB, 1 stage missing")
    assert "<li>evaluate curated, seed 0</li>" in html
    for name in ("curated", "control", "evaluations"):
        shutil.rmtree(copied / name)
    for folder in (copied / "workdirs").glob("downstream-*"):
        shutil.rmtree(folder)
    html = report(str(copied), output=tmp_path / "page.html")
    assert "3 stages missing" in capsys.readouterr().out
    missing = html[html.index('class="missing"') :]
    assert all(f"<li>{stage}</li>" in missing for stage in ("curate", "uniform control", "top reference control"))
    assert "Pool, at random" in html
    assert "Learnability" in html
    (copied / "workdirs/distill/selections/manifest.json").unlink()
    shutil.rmtree(copied / "corpora/pool")
    html = report(str(copied), output=tmp_path / "page.html")
    assert "Loss of the learner" in html  # its metrics are there, whether it finished or not
    assert "<li>ingest pool</li>" in html


def test_a_round_whose_pool_was_deleted_still_shows_what_it_kept(copied, tmp_path, capsys):
    shutil.rmtree(copied / "corpora/pool")
    html = report(str(copied), output=tmp_path / "page.html")
    assert "Curated, at random" in html
    assert html.count("<img ") == 16
    assert capsys.readouterr().out.strip().endswith("MB, 1 stage missing")


def test_two_rounds_are_compared(miniature, hostile, tmp_path):
    html = report(str(miniature), str(hostile), output=tmp_path / "page.html")
    assert "Both rounds kept 16 of the same rows: 100.0% of A&#39;s 16" in html
    assert "<script" not in html
    one, other = (collect.collect(str(path), None, LIMITS) for path in (miniature, hostile))
    found = compare.compare(one, other, most=4)
    assert [(grid.title, len(grid.pictures)) for grid in found.grids] == [
        ("Kept by both", 4), ("Only in A", 0), ("Only in B", 0),
    ]  # fmt: skip
    other.layout.artifacts["curated"] = other.layout.artifacts["top_reference"]
    overlap = compare.compare(one, other, most=4).overlap
    assert overlap.both + overlap.only["A"] == overlap.both + overlap.only["B"] == 16
    assert overlap.only["A"] > 0


def test_a_later_round_has_the_first_ones_corpora(copied, tmp_path):
    for name in ("embeddings", "curated", "control", "workdirs"):
        shutil.copytree(copied / name, copied / "round-2" / name)
    assert "A further round lies at" in report(str(copied), output=tmp_path / "page.html")
    found = collect.collect(str(copied / "round-2"), None, LIMITS)
    assert found.name == "mini, round 2"
    assert found.layout.path("pool") == str(copied / "corpora/pool")
    assert found.layout.path("curated") == str(copied / "round-2/curated")
    assert found.accounts.findings == []


@pytest.fixture
def raw(tmp_path) -> Path:
    """A raw source, read into the pool of a round beside it."""
    pairs = [(picture(i), f"thing number {i}") for i in range(8)]
    raw = write_folder(tmp_path / "raw", [*pairs, (picture(9), "1234.jpg"), (picture(10)[:50], "cut off")])
    output = tmp_path / "round/corpora/pool"
    ingest = ["ingest", f"--source=folder:{raw}", "--name=pool", f"--output={output}", "--shards=1"]
    assert cli.main([*ingest, "--max_rejected_fraction=1"]) == 0
    return raw


def test_what_was_rejected_is_shown_where_its_source_still_lies_there(raw, tmp_path):
    found = collect.collect(str(tmp_path / "round"), None, ANYWHERE)
    assert [(r.stage, r.reason, r.rows, r.share) for r in found.rejected] == [
        ("ingest pool", "boilerplate text", 1, 0.1), ("ingest pool", "truncated image", 1, 0.1),
    ]  # fmt: skip
    text, cut = (r.examples[0] for r in found.rejected)
    assert (text.text, text.problem, bool(text.thumbnail)) == ("1234.jpg", "", True)
    assert (cut.text, cut.problem, cut.thumbnail) == ("cut off", "truncated image", None)
    assert cut.note.startswith("OSError")
    raw.rename(tmp_path / "moved")
    text = collect.collect(str(tmp_path / "round"), None, ANYWHERE).rejected[0].examples[0]
    assert text.problem == "its source was not found"
    assert "images/0008.png" in text.text


def test_a_source_outside_of_the_round_is_opened_only_if_that_is_asked_for(raw, tmp_path, monkeypatch):
    """A round that somebody sent names what it likes: nothing of this disk gets onto its page."""
    root, output = str(tmp_path / "round"), tmp_path / "page.html"
    (tmp_path / "round/away").symlink_to(raw)
    assert ">1234.jpg<" in report(root, "--sources", output=output)
    opened = []
    monkeypatch.setattr("beam_pipelines.sources.parse", lambda source, _: opened.append(source) or 1 / 0)
    for place in (raw, f"{root}/away", f"{root}/x/../../raw", f"{root}-2", "gs://somebody/else"):
        rewrite_config(tmp_path / "round/corpora/pool", source=f"folder:{place}")
        html = report(root, output=output)
        assert f"Not looked for: <bdi>folder:{place}</bdi> lies outside" in html
        assert '<div class="none">not looked for</div>' in html
        assert ">1234.jpg<" not in html
    assert opened == []


def test_a_source_in_the_round_is_opened_and_no_link_out_of_it_is_followed(raw, tmp_path):
    root = tmp_path / "round"
    inside = root / "sources"
    shutil.copytree(raw, inside)
    rewrite_config(root / "corpora/pool", source=f"folder:{inside}")
    text = collect.collect(str(root), None, LIMITS).rejected[0].examples[0]
    assert (text.text, text.problem) == ("1234.jpg", "")
    for linked in ("images/0008.png", "captions.jsonl"):
        (inside / linked).unlink()
        (inside / linked).symlink_to(raw / linked)
        [text, cut] = (r.examples[0] for r in collect.collect(str(root), None, LIMITS).rejected)
        assert (text.problem, text.thumbnail) == ("its source was not found", None)
        assert (cut.text == "cut off") == (linked != "captions.jsonl")
        (inside / linked).unlink()
        shutil.copy(raw / linked, inside / linked)
    rewrite_config(root / "corpora/pool", source=None)
    assert [r.reason for r in collect.collect(str(root), None, LIMITS).rejected] == [
        "boilerplate text",
        "truncated image",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["."], "is no round: it has neither corpora/pool/manifest.json"),
        (["curated"], "is no round but corpus: give the directory"),
        ([".", "--thumbnails=0"], "thumbnails is 0; it must lie in [1, 200]"),
        ([".", "--output=page"], "output is 'page'; it names the page's file"),
    ],
)
def test_what_is_no_round_is_refused_in_one_line(miniature, tmp_path, capsys, arguments, words):
    directory = str(miniature / "curated") if arguments[0] == "curated" else str(tmp_path)
    assert cli.main(["report", directory, *arguments[1:]]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_without_the_libraries_that_draw_the_cure_is_named(miniature, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["report", str(miniature)]) == 1
    assert "pip install 'superbatch[report]'" in capsys.readouterr().err


def test_hostile_bytes_give_no_picture_and_a_reason():
    assert pictures.thumbnail(b"") == (None, "not an image")
    assert pictures.thumbnail(picture(1)[:60]) == (None, "truncated image")
    rng = random.Random(5)
    assert pictures.thumbnail(images._png(rng, 100_000, 100_000, 8, 2)) == (None, "too many pixels")
    for _ in range(150):
        small, problem = pictures.thumbnail(images.image(rng))
        assert bool(small) != bool(problem)
        assert small is None or 0 < max(small.width, small.height) <= pictures.SIDE
    noise, file = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    small, _ = pictures.thumbnail(file.getvalue())
    assert (small.width, small.height) == (64, 96)
    assert small.uri.startswith("data:image/webp;base64,")
    assert len(small.uri) < 12_000  # twenty grids of eighteen such pictures stay below 5 MB
