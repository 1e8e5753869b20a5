"""What does not belong together is refused, with both values; what was damaged is named."""

import shutil
import subprocess
import sys

import pytest

from beam_pipelines.verify import verify
from infra import cli
from schemas import manifest as manifests

DISTILL = [
    "--steps=2", "--batch_size=8", "--block_size=8", "--filter_ratio=0.5", "--chunks=2", "--warmup_steps=1",
    "--resolution=32",
]  # fmt: skip


def failure(capsys, *arguments: str) -> str:
    """Runs a command that must fail, and returns its one line."""
    assert cli.main(list(arguments)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_embeddings_of_another_corpus_are_refused_with_both_fingerprints(miniature, tmp_path, capsys):
    line = failure(
        capsys, "distill", f"--corpus={miniature}/corpora/seed", f"--embeddings={miniature}/embeddings",
        f"--workdir={tmp_path}/w", *DISTILL,
    )  # fmt: skip
    for corpus in ("seed", "pool"):
        assert manifests.read(str(miniature / "corpora" / corpus)).fingerprint in line
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("field", "changes"), [("preprocessing", ["--resolution=64"]), ("parameters", ["--seed=7"])])
def test_embeddings_of_another_reference_are_refused_with_both_fingerprints(
    miniature, tmp_path, capsys, field, changes
):
    train = ["--steps=3", "--batch_size=8", "--block_size=4", "--warmup_steps=1", "--resolution=32", *changes]
    assert cli.main(["train", f"--corpus={miniature}/corpora/seed", f"--workdir={tmp_path}/other", *train]) == 0
    line = failure(
        capsys, "distill", f"--corpus={miniature}/corpora/pool", f"--embeddings={miniature}/embeddings",
        f"--reference={tmp_path}/other", f"--workdir={tmp_path}/w", *DISTILL,
    )  # fmt: skip
    models = [manifests.read(str(p)).model for p in (tmp_path / "other", miniature / "workdirs/reference")]
    assert field in line
    for model in models:
        assert getattr(model, field) in line


def test_selections_of_another_corpus_are_refused(miniature, tmp_path, capsys):
    line = failure(
        capsys, "curate", f"--corpus={miniature}/corpora/seed", f"--selections={miniature}/workdirs/distill",
        "--budget=4", f"--output={tmp_path}/c",
    )  # fmt: skip
    assert "name the corpus that was distilled" in line


def test_a_budget_beyond_the_picks_is_refused(miniature, tmp_path, capsys):
    line = failure(
        capsys, "curate", f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill",
        "--budget=90", f"--output={tmp_path}/c",
    )  # fmt: skip
    assert "budget is 90 rows and" in line


@pytest.mark.parametrize(("budget", "shards", "words"), [(90, 2, "budget is 90 rows and"), (16, 64, "would be empty")])
def test_curate_with_settings_that_cannot_be_met_may_be_tried_with_others(
    miniature, tmp_path, capsys, budget, shards, words
):
    curate = ["curate", f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill"]
    curate += [f"--output={tmp_path}/c", f"--control={tmp_path}/control"]
    assert words in failure(capsys, *curate, f"--budget={budget}", f"--shards={shards}")
    assert cli.main([*curate, "--budget=16", "--shards=2", "--name=mini_curated"]) == 0
    for name, theirs in (("c", "curated"), ("control/uniform", "control/uniform")):
        ours = manifests.read(str(tmp_path / name)).fingerprint
        assert ours == manifests.read(str(miniature / theirs)).fingerprint


def test_too_many_rejections_fail_the_job_and_name_the_reasons(miniature, tmp_path, capsys):
    line = failure(
        capsys, "ingest", f"--source=folder:{miniature.parent}/pool", "--name=p", f"--output={tmp_path}/c",
        "--shards=1", "--max_rejected_fraction=0.01",
    )  # fmt: skip
    assert "2.0% of 99 rows were rejected" in line
    assert "not_an_image (1)" in line
    assert not manifests.exists(f"{tmp_path}/c")
    # The same job with another bound takes up what was written.
    again = ["ingest", f"--source=folder:{miniature.parent}/pool", "--name=p", f"--output={tmp_path}/c", "--shards=1"]
    assert cli.main(again) == 0
    assert not (tmp_path / "c" / ".work").exists()


def test_another_job_in_the_same_directory_is_refused(miniature, tmp_path, capsys):
    shutil.copytree(miniature / "corpora/seed", tmp_path / "c")
    line = failure(
        capsys, "ingest", f"--source=folder:{miniature.parent}/seed", "--name=mini_seed", f"--output={tmp_path}/c",
        "--shards=2", "--seed=5",
    )  # fmt: skip
    assert "seed was 0, now 5" in line


def test_a_damaged_model_is_told_in_one_line(miniature, tmp_path, capsys):
    copy = tmp_path / "copy"
    evaluate = ["evaluate", f"--checkpoint={copy}", f"--corpus={miniature}/corpora/evaluation"]
    for name, content, words in (
        ("config.json", b"{}", "config.json is missing or damaged"),
        ("tokenizer.model", b"?", "not a SentencePiece model"),
    ):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(miniature / "workdirs/reference", copy)
        (copy / name).write_bytes(content)
        assert words in failure(capsys, *evaluate)
    shutil.rmtree(copy)
    shutil.copytree(miniature / "workdirs/reference", copy)
    shutil.rmtree(copy / "checkpoints")
    failure(capsys, *evaluate)
    assert not (copy / "checkpoints").exists()


def test_train_and_distill_need_workdirs_of_their_own(miniature, capsys):
    line = failure(
        capsys, "train", f"--corpus={miniature}/corpora/pool", f"--workdir={miniature}/workdirs/distill", "--steps=5",
        "--batch_size=8", "--block_size=8", "--warmup_steps=1", "--resolution=32",
    )  # fmt: skip
    assert "was made from corpus and embeddings" in line


def test_settings_that_cannot_work_leave_the_workdir_free(miniature, tmp_path, capsys):
    train = ["train", f"--corpus={miniature}/corpora/seed", f"--workdir={tmp_path}/w", "--steps=3", "--warmup_steps=1"]
    assert "resolution 50" in failure(capsys, *train, "--batch_size=8", "--block_size=4", "--resolution=50")
    assert "the corpus has 48" in failure(capsys, *train, "--batch_size=64", "--block_size=64", "--resolution=32")
    assert not (tmp_path / "w").exists()


def test_a_repaired_source_is_read_anew(miniature, tmp_path, capsys):
    source = tmp_path / "raw"
    shutil.copytree(miniature.parent / "seed", source)
    lines = (source / "captions.jsonl").read_text()
    (source / "captions.jsonl").write_text(lines.replace("file_name", "name"))
    ingest = ["ingest", f"--source=folder:{source}", "--name=s", f"--output={tmp_path}/c", "--shards=1"]
    assert "100.0% of 48 rows were rejected" in failure(capsys, *ingest)
    (source / "captions.jsonl").write_text(lines)
    assert cli.main(ingest) == 0
    assert manifests.read(f"{tmp_path}/c").counts.kept == 48
    assert verify(f"{tmp_path}/c").findings == []


def test_lineage_reaches_down_to_the_raw_corpora(miniature, capsys):
    assert cli.main(["lineage", str(miniature / "curated")]) == 0
    tree = capsys.readouterr().out
    for word in ("selections", "embeddings", "reference", "mini_seed", "mini_pool"):
        assert word in tree
    assert "└─ corpus: corpus mini_seed" in tree


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["ingest", "--source=folder:/nowhere", "--name=a", "--output=O", "--sharts=3"],
            "unknown flag '--sharts=3': did you mean --shards?",
        ),
        (["ingest", "--source=folder:/nowhere", "--name=a", "--output=O"], "/nowhere/captions.jsonl does not exist"),
        (["ingest", "--source=webdataset:/no*.tar", "--name=a", "--output=O"], "no file matches"),
        (["ingest", "--source=tar:/x", "--name=a", "--output=O"], "must be FORMAT:ADDRESS"),
        (["ingest", "--source=folder:/x", "--name=a b", "--output=O"], "name is 'a b'"),
        (["ingest", "--source=folder:/x", "--name=a", "--output=O", "--shards=0"], "shards is 0"),
        (["train", "--corpus=/nowhere", "--workdir=O"], "/nowhere is not a complete corpus"),
        (["embed", "--corpus=/nowhere", "--reference=/r", "--output=O"], "/nowhere is not a complete corpus"),
        (["curate", "--corpus=/n", "--selections=/s", "--output=O", "--budget=1.5"], "budget is 1.5"),
        (["lineage", "/nowhere"], "/nowhere is not a complete artifact"),
        (["evaluate", "--checkpoint=/nowhere", "--corpus=/c"], "/nowhere is not a complete model"),
        (["ingest", "--source=folder:/x", "--name=a", "--output=O", "--version=2"], "version is '2'"),
        (["curate", "--corpus=/n", "--selections=/s", "--output=O", "--budget=nan"], "budget is nan"),
        (["round", "--config=/nowhere.toml"], "/nowhere.toml does not exist"),
    ],
)
def test_bad_usage_ends_in_one_clear_line(arguments, words, tmp_path, capsys):
    arguments = [a.replace("=O", f"={tmp_path}/o") for a in arguments]
    line = failure(capsys, *arguments)
    assert line.startswith(f"superbatch {arguments[0]}: ")
    assert words in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "is not TOML"),
        ('name = "n"\nseed = "folder:a"\noutput = "o"', "lacks `pool`"),
        ('name = "n"\nseed = "folder:a"\npool = "folder:b"\noutput = "o"\nrouns = 2', "unknown keys rouns"),
        ('name = "n"\nseed = "folder:a"\npool = "folder:b"\noutput = "o"\n[destil]\na = 1', r"section [destil]"),
        ('name = "n"\nseed = "folder:a"\npool = "folder:b"\noutput = "o"\n[distill]\nstep = 1', "unknown keys step"),
        ('name = "n"\nseed = "folder:a"\npool = "folder:b"\noutput = "o"\nrounds = 0', "rounds is 0"),
    ],
)
def test_a_wrong_round_file_names_the_key(text, words, tmp_path, capsys):
    (tmp_path / "r.toml").write_text(text)
    assert words in failure(capsys, "round", f"--config={tmp_path}/r.toml")


def test_unknown_commands_and_help(capsys):
    assert cli.main(["distil"]) == 2
    assert "there are: ingest, train" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "distill" in capsys.readouterr().out


def test_beam_jobs_run_as_modules_too(miniature, tmp_path):
    """As a Flex template starts them: a fresh interpreter, and nothing pickled from __main__."""
    arguments = [f"--source=folder:{miniature.parent}/seed", "--name=mini_seed", f"--output={tmp_path}/c", "--shards=2"]
    command = [sys.executable, "-W", "ignore", "-m", "beam_pipelines.ingest"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fingerprint = manifests.read(str(miniature / "corpora/seed")).fingerprint
    assert manifests.read(f"{tmp_path}/c").fingerprint == fingerprint
    assert done.stdout.strip().endswith(f"fingerprint {fingerprint[:12]}")
    failed = subprocess.run([*command, *arguments, "--seeed=3"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("ingest: unknown flag '--seeed=3'")
