"""The trainer on `gs://`: commands in processes of their own, against an object store's emulator, over real HTTP."""

import json

import pytest

from infra import cli
from schemas import manifest as manifests
from tests import gcs
from trainer import big_vision
from trainer.model import Source

DISTILL = [
    "--steps=5", "--batch_size=8", "--block_size=8", "--filter_ratio=0.8", "--chunks=3", "--warmup_steps=1",
    "--resolution=32", "--steps_per_part=2", "--checkpoint_every=2", "--log_every=1",
]  # fmt: skip
# Pulls the plug in the middle of the fifth step, after the checkpoint of the fourth.
KILLED = """
import os, signal
from trainer.selections_log import SelectionsLog
add = SelectionsLog.add
def add_or_die(self, step, *rest):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, step, *rest)
SelectionsLog.add = add_or_die
"""


@pytest.fixture(scope="module")
def bucket(miniature, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("bucket")
    with gcs.emulator(scratch / "requests.log") as server:
        server.make_bucket("bucket")
        for name in ("corpora/pool", "corpora/evaluation", "embeddings"):
            server.upload(miniature / name, "bucket", name)
        model = Source(str(miniature / "workdirs/reference")).load()
        (scratch / "model.npz").write_bytes(big_vision.write(model.parameters))
        server.put("bucket", "model.npz", (scratch / "model.npz").read_bytes())
        server.put("bucket", "tokenizer.model", (miniature / "workdirs/reference/tokenizer.model").read_bytes())
        yield gcs.Bucket(server, scratch)


def distill(workdir: object) -> list[str]:
    inputs = ["--corpus=gs://bucket/corpora/pool", "--embeddings=gs://bucket/embeddings"]
    return ["distill", *inputs, f"--workdir={workdir}", *DISTILL]


def test_distill_reads_a_bucket_and_gives_the_same_model_and_picks(miniature, bucket, tmp_path):
    [(code, _, _, errors)] = bucket.run(distill(tmp_path / "w"))
    assert code == 0, errors
    for part in ("", "/selections"):
        ours, theirs = (manifests.read(f"{root}{part}") for root in (tmp_path / "w", miniature / "workdirs/distill"))
        assert ours.fingerprint == theirs.fingerprint


def test_a_workdir_in_a_bucket_survives_a_kill_and_ends_as_if_it_had_not(miniature, bucket, capsys):
    workdir = "gs://bucket/workdirs/distill"
    bucket.server.put("bucket", "workdirs/distill/", b"")  # as a console makes a folder
    killed = bucket.process(KILLED + gcs.COMMANDS, json.dumps([distill(workdir)]))
    assert killed.returncode == -9, killed.stderr
    names = bucket.server.names("bucket", "workdirs/distill/")
    assert any(name.startswith("workdirs/distill/checkpoints/4/") for name in names)
    assert "workdirs/distill/manifest.json" not in names

    evaluate = ["evaluate", "--corpus=gs://bucket/corpora/evaluation", "--json"]
    resumed, repeated, evaluated = bucket.run(
        distill(workdir), distill(workdir), [*evaluate, f"--checkpoint={workdir}"]
    )
    code, _, _, errors = resumed
    assert code == 0, errors
    assert "resumed at step 4 of 5" in errors
    for part in ("", "/selections"):
        whole = manifests.read(f"{miniature}/workdirs/distill{part}")
        assert bucket.manifest(f"workdirs/distill{part}").fingerprint == whole.fingerprint
    log = bucket.server.get("bucket", "workdirs/distill/metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4, 5]
    # The manifests name every object there is.
    named = {"", "manifest.json", "selections/manifest.json"}
    named |= {file.name for file in bucket.manifest("workdirs/distill").files}
    named |= {f"selections/{shard.name}" for shard in bucket.manifest("workdirs/distill/selections").shards}
    names = bucket.server.names("bucket", "workdirs/distill/")
    assert {name.removeprefix("workdirs/distill/") for name in names} == named

    code, seconds, _, errors = repeated
    assert code == 0, errors
    assert "nothing to do" in errors
    assert seconds < 10

    assert evaluated[0] == 0, evaluated[3]
    capsys.readouterr()
    local = [f"--checkpoint={miniature}/workdirs/distill", f"--corpus={miniature}/corpora/evaluation"]
    assert cli.main(["evaluate", *local, "--json"]) == 0
    assert json.loads(evaluated[2]) == json.loads(capsys.readouterr().out)


def test_evaluate_reads_a_checkpoint_and_tells_what_is_missing_at_once(miniature, bucket, capsys):
    model = ["--preset=tiny", "--resolution=32"]
    corpus, tokenizer = "--corpus=gs://bucket/corpora/evaluation", "--tokenizer=gs://bucket/tokenizer.model"
    shards = manifests.read(str(miniature / "corpora/evaluation")).shards
    bucket.server.put("bucket", "cut/manifest.json", (miniature / "corpora/evaluation/manifest.json").read_bytes())
    bucket.server.put("bucket", f"cut/{shards[0].name}", b"cut off")
    complete, *incomplete = bucket.run(
        ["evaluate", "--checkpoint=gs://bucket/model.npz", *model, tokenizer, corpus, "--json"],
        ["evaluate", "--checkpoint=gs://bucket/absent.npz", *model, tokenizer, corpus],
        ["evaluate", "--checkpoint=gs://bucket/model.npz", *model, "--tokenizer=gs://bucket/absent.model", corpus],
        ["evaluate", "--checkpoint=gs://bucket/model.npz", *model, tokenizer, "--corpus=gs://bucket/absent"],
        ["evaluate", "--checkpoint=gs://absent/model.npz", *model, tokenizer, corpus],
        ["evaluate", "--checkpoint=gs://bucket/model.npz", *model, tokenizer, "--corpus=gs://bucket/cut"],
    )
    words = (
        "gs://bucket/absent.npz cannot be read",
        "tokenizer gs://bucket/absent.model cannot be read",
        "gs://bucket/absent is not a complete corpus",
        "gs://absent does not exist",
        f"gs://bucket/cut/{shards[0].name} cannot be opened as ArrayRecord",
    )
    for (code, seconds, _, errors), wanted in zip(incomplete, words, strict=True):
        line = errors.strip().splitlines()[-1]
        assert line.startswith("superbatch evaluate: ")
        assert wanted in line
        assert "Traceback" not in errors
        assert code == 1
        assert seconds < 20
    capsys.readouterr()
    local = [f"--checkpoint={bucket.scratch}/model.npz", f"--tokenizer={miniature}/workdirs/reference/tokenizer.model"]
    assert cli.main(["evaluate", *local, *model, f"--corpus={miniature}/corpora/evaluation", "--json"]) == 0
    assert complete[0] == 0, complete[3]
    assert json.loads(complete[2]) == json.loads(capsys.readouterr().out)


def test_a_block_of_a_remote_shard_is_one_request(miniature, bucket):
    """What ArrayRecord reads by default is a request for each row."""
    program = """
import sys
from schemas import shards
with shards.ShardReader("gs://bucket/corpora/pool/" + sys.argv[1], int(sys.argv[2])) as reader:
    rows = reader.read(range(4, 36))
    wrapped = reader.read([*range(30, 34), *range(3)])
    assert wrapped == rows[26:30] + reader.read_range(0, 3)
"""
    shard = manifests.read(str(miniature / "corpora/pool")).shards[0]
    log = bucket.scratch / "requests.log"
    before = log.read_text().count(shard.name)
    done = bucket.process(program, shard.name, str(shard.rows))
    assert done.returncode == 0, done.stderr
    assert log.read_text().count(shard.name) - before == 1 + 1 + 2 + 1  # opening, a block, one that wraps, its end


def test_what_others_write_meanwhile_is_seen(bucket):
    program = """
import sys
from schemas import storage
from tests import gcs
server, folder = gcs.Emulator(sys.argv[1]), "gs://bucket/shared"
server.put("bucket", "shared/a/first", b"1")
assert list(storage.as_path(folder + "/a").iterdir())
assert not storage.as_path(folder + "/a/second").exists()
server.put("bucket", "shared/a/second", b"2")
server.put("bucket", "shared/.work/hidden", b"3")
server.put("bucket", "shared-by-name-only", b"4")
assert storage.as_path(folder + "/a/second").exists()
print(storage.relative_files(folder))
"""
    done = bucket.process(program, bucket.server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['a/first', 'a/second']"
