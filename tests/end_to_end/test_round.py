"""A whole round on a generated miniature, through the real commands; then everything a stranger would check."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_pipelines.verify import verify
from infra import cli
from schemas import manifest as manifests
from schemas import records, selections, shards
from schemas.rejections import Reason
from tests.conftest import write_miniature

ARTIFACTS = (
    "corpora/seed", "corpora/pool", "corpora/evaluation", "embeddings", "curated", "control/uniform",
    "control/top_reference", "workdirs/reference", "workdirs/distill", "workdirs/distill/selections",
)  # fmt: skip


def rows_of(directory: Path) -> list[bytes]:
    return list(
        shards.open_dataset(str(directory), manifest := manifests.read(str(directory))).read(range(manifest.rows))
    )


def test_the_pool_is_counted_to_the_last_row(miniature):
    counts = manifests.read(str(miniature / "corpora/pool")).counts
    assert (counts.read, counts.kept, counts.duplicates) == (99, 96, 1)
    assert counts.rejected == {Reason.NOT_AN_IMAGE: 1, Reason.TRUNCATED_IMAGE: 1}
    rejected = [
        row
        for path in (miniature / "corpora/pool/rejections").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert sorted(row["reason"] for row in rejected) == ["not_an_image", "truncated_image"]
    assert all(row["source"].startswith("captions.jsonl@") and "images/" in row["source"] for row in rejected)


def test_rows_stand_in_keyed_order_over_all_shards(miniature):
    from schemas.identity import keyed_order

    orders = [keyed_order(records.record_uid(row), 0) for row in rows_of(miniature / "corpora/pool")]
    assert orders == sorted(orders)
    assert len(set(orders)) == 96


def test_embeddings_belong_to_their_rows(miniature):
    corpus, embeddings = rows_of(miniature / "corpora/pool"), rows_of(miniature / "embeddings")
    assert [records.record_uid(row) for row in corpus] == [records.record_uid(row) for row in embeddings]
    manifest = manifests.read(str(miniature / "embeddings"))
    assert [s.name for s in manifest.shards] == [s.name for s in manifests.read(str(miniature / "corpora/pool")).shards]

    from trainer import model as models
    from trainer.decode import decode_image

    model = models.Source(str(miniature / "workdirs/reference")).load()
    example, stored = records.decode_example(corpus[37]), records.decode_embedding(embeddings[37])
    image, text = model.embed(decode_image(example.image, 32)[None], model.tokenizer([example.text]))
    assert stored.valid
    np.testing.assert_allclose(records.unpack_vectors([stored.image_embedding], "float16", 128), image, atol=2e-3)
    np.testing.assert_allclose(records.unpack_vectors([stored.text_embedding], "float16", 128), text, atol=2e-3)


def test_selections_log_every_pick_of_every_step(miniature):
    directory = str(miniature / "workdirs/distill/selections")
    picks, offered = selections.read_picks(directory), selections.read_superbatches(directory)
    assert picks.schema == selections.PICKS
    assert picks.num_rows == 5 * 8
    assert picks["step"].to_pylist() == [step for step in range(5) for _ in range(8)]
    assert picks["pick"].to_pylist() == list(range(8)) * 5
    assert picks["chunk"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2] * 5
    uids = [records.record_uid(row) for row in rows_of(miniature / "corpora/pool")]
    assert picks["uid"].to_pylist() == [uids[row] for row in picks["row"].to_pylist()]
    for step, blocks in zip(offered["step"].to_pylist(), offered["blocks"].to_pylist(), strict=True):
        rows = {row for s, row in zip(picks["step"].to_pylist(), picks["row"].to_pylist(), strict=True) if s == step}
        assert len(rows) == 8
        assert {row // 8 for row in rows} <= set(blocks)
        assert len(blocks) == 5
    quantiles = np.array(offered["score_quantiles"].to_pylist())
    assert quantiles.shape == (5, len(selections.QUANTILE_LEVELS))
    assert (np.diff(quantiles, axis=1) >= 0).all()


def test_the_curated_rows_are_the_most_visited_ones(miniature):
    picks = selections.read_picks(str(miniature / "workdirs/distill/selections")).to_pandas()
    offered = selections.read_superbatches(str(miniature / "workdirs/distill/selections"))["blocks"].to_pylist()
    offers = np.zeros(96)
    for blocks in offered:
        for block in blocks:
            offers[block * 8 : block * 8 + 8] += 1
    per_row = picks.groupby(["row", "uid"]).agg(visits=("step", "size"), conditional=("conditional", "mean"))
    per_row = per_row.reset_index()
    per_row["rate"] = per_row["visits"] / offers[per_row["row"]]
    best = per_row.sort_values(["rate", "conditional", "uid"], ascending=[False, False, True])[:16]
    curated = [records.decode_example(row) for row in rows_of(miniature / "curated")]
    assert {e.uid for e in curated} == set(best["uid"])
    assert {e.uid: e.selection.visits for e in curated} == dict(zip(best["uid"], best["visits"], strict=True))


def test_controls_have_the_same_size_and_the_corpus_features(miniature):
    for control in ("uniform", "top_reference"):
        rows = [records.decode_example(row) for row in rows_of(miniature / "control" / control)]
        assert len({e.uid for e in rows}) == 16
        assert all(e.selection is None for e in rows)


def test_tfds_reads_every_dataset_with_no_code_of_ours(miniature):
    """In a fresh interpreter outside the checkout, so that nothing of ours can be imported by accident."""
    program = """
import sys
import tensorflow_datasets as tfds
for path in sys.argv[1:]:
    source = tfds.builder_from_directory(path).as_data_source("train")
    print(len(source), sorted(source[0]))
assert not any(name.split(".")[0] in ("schemas", "trainer", "beam_pipelines", "infra") for name in sys.modules)
"""
    paths = [str(miniature / name) for name in ("corpora/pool", "embeddings", "curated", "control/uniform")]
    output = subprocess.run(
        [sys.executable, "-I", "-c", program, *paths], cwd="/", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split()[0] for line in output] == ["96", "96", "16", "16"]
    assert "'selection/learnability'" in output[2]
    assert "'image_embedding'" in output[1]


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_verify_finds_every_artifact_sound(miniature, artifact):
    assert verify(str(miniature / artifact)).findings == []


def test_workdirs_hold_what_the_design_says(miniature):
    names = {path.name for path in (miniature / "workdirs/distill").iterdir()}
    assert {"checkpoints", "selections", "metrics.jsonl", "config.json", "manifest.json"} <= names
    lines = [json.loads(line) for line in (miniature / "workdirs/distill/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 5
    assert {"loss", "learnability_kept", "learnability_passed", "input_stall"} <= set(lines[-1])


def test_running_the_round_again_does_nothing(miniature, capsys):
    before = {path: path.stat().st_mtime_ns for path in miniature.rglob("*")}
    assert cli.main(["round", f"--config={miniature.parent / 'round.toml'}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in miniature.rglob("*")} == before
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["stage", "counts", "seconds", "fingerprint"]
    assert any(line.startswith("distill") and "kept 40" in line for line in table)


def test_a_second_round_from_scratch_gives_the_same_fingerprints(miniature, tmp_path):
    write_miniature(tmp_path)
    text = (tmp_path / "round.toml").read_text().replace("downstream_seeds = [0]", "")
    (tmp_path / "round.toml").write_text(text)
    assert tomllib.loads(text)["name"] == "mini"
    assert cli.main(["round", f"--config={tmp_path / 'round.toml'}"]) == 0
    for artifact in ARTIFACTS:
        ours, theirs = (manifests.read(str(root / artifact)) for root in (miniature, tmp_path / "out"))
        assert ours.fingerprint == theirs.fingerprint, artifact


def test_a_round_resumes_at_the_first_incomplete_stage(miniature, tmp_path):
    shutil.copytree(miniature.parent, tmp_path / "copy")
    config = tmp_path / "copy" / "round.toml"
    config.write_text(config.read_text().replace(str(miniature), str(tmp_path / "copy" / "out")))
    out = tmp_path / "copy" / "out"
    before = manifests.read(str(out / "curated")).fingerprint
    (out / "curated/manifest.json").unlink()
    for shard in (out / "curated").glob("*00001-of-*"):
        shard.unlink()
    kept = next((out / "curated").glob("*00000-of-*")).stat().st_mtime_ns
    assert cli.main(["round", f"--config={config}"]) == 0
    assert manifests.read(str(out / "curated")).fingerprint == before
    assert next((out / "curated").glob("*00000-of-*")).stat().st_mtime_ns == kept


def test_a_second_round_trains_its_reference_on_the_first_curated_set(miniature, tmp_path):
    shutil.copytree(miniature.parent, tmp_path / "copy")
    config = tmp_path / "copy" / "round.toml"
    text = config.read_text().replace(str(miniature), str(tmp_path / "copy" / "out"))
    config.write_text(text.replace("downstream_seeds = [0]", "rounds = 2").replace("block_size = 4", "block_size = 2"))
    # The first round's reference has another block size now: its workdir is refused, by name.
    assert cli.main(["round", f"--config={config}"]) == 1
    config.write_text(text.replace("downstream_seeds = [0]", "rounds = 2"))
    assert cli.main(["round", f"--config={config}"]) == 0
    out = tmp_path / "copy" / "out"
    reference = manifests.read(str(out / "round-2/workdirs/reference"))
    assert reference.parent("corpus").fingerprint == manifests.read(str(out / "curated")).fingerprint
    assert verify(str(out / "round-2/curated")).findings == []


def test_a_set_is_published_only_if_it_beats_its_control(miniature, tmp_path, capsys):
    shutil.copytree(miniature.parent, tmp_path / "copy")
    config, out = tmp_path / "copy" / "round.toml", tmp_path / "copy" / "out"
    published = tmp_path / "published"
    config.write_text(
        f'{config.read_text().replace(str(miniature), str(out))}\n[publish]\ndestination = "{published}"\n'
    )
    say_of_the_models(out, curated=0.25, control=0.25)
    assert cli.main(["round", f"--config={config}"]) == 0
    *_, gate, publish, _ = capsys.readouterr().out.splitlines()
    assert "not published: the curated set is no better than its control (recall_at_1 0.2500 and 0.2500)" in gate
    assert publish.split() == ["publish", "not", "published", "0.0"]
    assert not published.exists()

    say_of_the_models(out, curated=0.5, control=0.25)
    assert cli.main(["round", f"--config={config}"]) == 0
    *_, gate, publish, _ = capsys.readouterr().out.splitlines()
    assert "the curated set beats its control by 0.2500" in gate
    assert "kept 16" in publish
    version = manifests.read(str(published / "mini_curated/1.0.0"))
    assert version.fingerprint == manifests.read(str(out / "curated")).fingerprint


def say_of_the_models(out: Path, **recall: float) -> None:
    """Makes the evaluations say this. Their inputs stay the same, so they are not measured again."""
    for label, value in recall.items():
        path = out / f"evaluations/downstream-{label}-0.json"
        evaluation = json.loads(path.read_text())
        for direction in ("text_to_image", "image_to_text"):
            evaluation["figures"][f"{direction}_recall_at_1"] = value
        path.write_text(json.dumps(evaluation))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[curate]", '[publish]\nalias = "latest"\n[curate]', "[publish] lacks `destination`"),
        ("[curate]", '[publish]\ndestination = "d"\nforce = true\n[curate]', "[publish] has unknown keys force"),
        ("[curate]", '[publish]\ndestination = "s3://d"\n[curate]', "destination is 's3://d'; it must be gs://"),
        ("downstream_seeds = [0]", '[publish]\ndestination = "d"', "downstream_seeds"),
        ("downstream_seeds = [0]", "downstream_seeds = [0, 0]", "each seed may come once"),
    ],
)
def test_a_round_that_cannot_be_published_is_refused_before_it_runs(miniature, tmp_path, capsys, old, new, words):
    text = (miniature.parent / "round.toml").read_text().replace(str(miniature), str(tmp_path / "out"))
    (tmp_path / "round.toml").write_text(text.replace(old, new, 1))
    assert cli.main(["round", f"--config={tmp_path / 'round.toml'}"]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_stages_can_be_printed_and_each_follows_its_inputs(miniature, capsys):
    assert cli.main(["round", f"--config={miniature.parent / 'round.toml'}", "--print_stages"]) == 0
    listed = json.loads(capsys.readouterr().out)
    seen: set[str] = set()
    for stage in listed:
        assert set(stage["inputs"]) <= seen
        seen.add(stage["id"])
    assert [stage["job"] for stage in listed[:7]] == ["ingest"] * 3 + ["train", "embed", "distill", "curate"]
    assert listed[5]["config"]["embeddings"] == listed[4]["output"]
