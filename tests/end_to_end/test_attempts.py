"""Several attempts at one job, at the same time or after damage: a sound artifact or one clear line, and never less."""

import shutil
import threading
from pathlib import Path

import pytest

from beam_pipelines import completion, embed, ingest, job, spool
from beam_pipelines.verify import verify
from infra.cli import main
from schemas import features, shards, storage
from schemas import manifest as manifests
from tests import commands

JOBS = {
    "ingest": ["--source=folder:IN/../pool", "--name=mini_pool", "--output=OUT", "--shards=2"],
    "embed": ["--corpus=IN/corpora/pool", "--reference=IN/workdirs/reference", "--output=OUT"],
    "curate": [
        "--corpus=IN/corpora/pool", "--selections=IN/workdirs/distill", "--budget=16", "--shards=2",
        "--name=mini_curated", "--output=OUT",
    ],
}  # fmt: skip
MADE = {"ingest": "corpora/pool", "embed": "embeddings", "curate": "curated"}
# Where one attempt stands while another one does the whole job: before it calls this.
MOMENTS = {
    "the mark": (job, "claim"),
    "a spool": (spool.Spools, "write"),
    "reading spools": (spool.Spools, "read"),
    "a shard": (shards, "write_shard"),
    "committing a shard": (shards.storage, "commit"),
    "the last step": (completion, "complete_dataset"),
    "TFDS's files": (features, "write_metadata"),
    "the manifest": (manifests, "write"),
    "cleaning up": (job, "clean_up"),
}
OF_INGEST = ("a spool", "reading spools")


def command(name: str, miniature: Path, output: Path) -> list[str]:
    return [name, *(a.replace("IN", str(miniature)).replace("OUT", str(output)) for a in JOBS[name])]


def check_sound(output: Path, theirs: Path) -> None:
    made, whole = manifests.read(str(output)), manifests.read(str(theirs))
    assert made.fingerprint == whole.fingerprint
    assert (made.shards, made.files, made.counts) == (whole.shards, whole.files, whole.counts)
    assert verify(str(output)).findings == []
    assert not list(output.rglob(".*"))


def before(monkeypatch, place: object, name: str, act) -> None:
    """Does something once, before the first call of a function."""
    function, once = getattr(place, name), threading.Lock()

    def wrapped(*arguments, **keywords):
        if once.acquire(blocking=False):
            act()
        return function(*arguments, **keywords)

    monkeypatch.setattr(place, name, wrapped)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", JOBS)
def test_an_attempt_that_another_one_overtakes_ends_well(miniature, tmp_path, monkeypatch, capsys, name, moment):
    if moment in OF_INGEST and name != "ingest":
        pytest.skip("only ingest has spools")
    same, codes = command(name, miniature, tmp_path / "o"), []
    place, function = MOMENTS[moment]
    if moment == "the last step":  # by the name under which the job knows it
        place = __import__(f"beam_pipelines.{name}", fromlist=[name])
    before(monkeypatch, place, function, lambda: codes.append(main(same)))
    assert main(same) == 0, capsys.readouterr().err
    assert codes == [0]
    check_sound(tmp_path / "o", miniature / MADE[name])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ingest", "embed"])
def test_two_attempts_at_once_do_no_harm(miniature, tmp_path, name):
    same = command(name, miniature, tmp_path / "o")
    for code, said in commands.finish([commands.start(same), commands.start(same)]):
        assert code == 0, said
    check_sound(tmp_path / "o", miniature / MADE[name])


def test_another_job_that_comes_when_this_one_has_just_finished_is_refused(miniature, tmp_path, monkeypatch, capsys):
    same, codes = command("ingest", miniature, tmp_path / "o"), []
    before(monkeypatch, job, "claim", lambda: codes.append(main(same)))
    assert main([*same, "--shards=1"]) == 1
    assert "shards was 2, now 1" in capsys.readouterr().err
    assert codes == [0]
    check_sound(tmp_path / "o", miniature / MADE["ingest"])


def test_a_source_that_changes_while_it_is_read_stops_the_job_and_the_next_attempt_reads_it(
    miniature, tmp_path, monkeypatch, capsys
):
    source = shutil.copytree(miniature.parent / "pool", tmp_path / "raw") / "captions.jsonl"
    ours = ["ingest", f"--source=folder:{source.parent}", "--name=p", f"--output={tmp_path}/o", "--shards=1"]
    lines = source.read_text().splitlines(keepends=True)
    with monkeypatch.context() as patch:
        before(patch, ingest, "spool_task", lambda: source.write_text("".join(lines[:50]) + " " * 9000))
        assert main(ours) == 1
    assert "changed while it was read" in capsys.readouterr().err.splitlines()[-1]
    assert main(ours) == 0, capsys.readouterr().err
    assert manifests.read(f"{tmp_path}/o").counts.kept == 50
    assert verify(f"{tmp_path}/o").findings == []


def stop_before_the_first_shard(ours: list[str], monkeypatch, capsys) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "write_shard", lambda *_: (_ for _ in ()).throw(OSError("pulled out")))
        assert main(ours) == 1
    assert "OSError: pulled out" in capsys.readouterr().err.splitlines()[-1]


def test_damaged_keys_are_made_anew(miniature, tmp_path, monkeypatch, capsys):
    ours = command("ingest", miniature, tmp_path / "o")
    stop_before_the_first_shard(ours, monkeypatch, capsys)
    [path] = (tmp_path / "o/.work").glob("keys-*")
    path.write_bytes(path.read_bytes()[:200])
    assert main(ours) == 0
    assert f"{path} is damaged and is made anew" in capsys.readouterr().err
    check_sound(tmp_path / "o", miniature / MADE["ingest"])


@pytest.mark.parametrize("damaged", ["spool-*", "job.json"])
def test_damaged_working_files_are_named_with_the_cure(miniature, tmp_path, monkeypatch, capsys, damaged):
    ours, work = command("ingest", miniature, tmp_path / "o"), tmp_path / "o/.work"
    stop_before_the_first_shard(ours, monkeypatch, capsys)
    [path] = work.glob(damaged)
    path.write_bytes(path.read_bytes()[:200])
    assert main(ours) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in line
    assert "elete " in line
    storage.remove_tree(work)
    assert main(ours) == 0, capsys.readouterr().err
    check_sound(tmp_path / "o", miniature / MADE["ingest"])


def test_a_damaged_shard_of_an_earlier_attempt_is_named(miniature, tmp_path, monkeypatch, capsys):
    ours = command("embed", miniature, tmp_path / "o")
    with monkeypatch.context() as patch:
        patch.setattr(embed, "complete_dataset", lambda *_, **__: (_ for _ in ()).throw(OSError("pulled out")))
        assert main(ours) == 1
    shard = sorted((tmp_path / "o").glob("*-of-*"))[1]
    shard.write_bytes(shard.read_bytes()[:1000])
    capsys.readouterr()
    assert main(ours) == 1
    assert shard.name in capsys.readouterr().err.splitlines()[-1]
    shard.unlink()
    assert main(ours) == 0, capsys.readouterr().err
    check_sound(tmp_path / "o", miniature / MADE["embed"])
