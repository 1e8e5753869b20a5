"""The long kill test itself: its moments, what it reads off a workdir, and that it sees every difference."""

import json
import shutil

import pytest

from benchmarks import kill


def test_moments_follow_the_seed_and_the_last_comes_after_the_last_step():
    options = kill.Options(kills=20, steps=40)
    drawn = kill.moments(options)
    assert drawn == kill.moments(options) != kill.moments(kill.Options(kills=20, steps=40, seed=1))
    assert len(drawn) == 20
    assert sum(moment.step is None for moment in drawn) == 4
    reached = [moment.step for moment in drawn if moment.step is not None]
    assert reached == sorted(reached)
    assert reached[-1] == drawn[-1].step == 40
    assert all(0 <= moment.later < 1 for moment in drawn)


def test_progress_is_what_was_logged_and_what_was_saved(tmp_path):
    assert kill.progress(tmp_path) == kill.Progress(0, 0, 0)
    for folder in ("3", "6", "9.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / folder).mkdir(parents=True)
    lines = [json.dumps({"step": step}) for step in (7, 8, 9)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))  # the last line was cut off
    found = kill.progress(tmp_path)
    assert (found.logged, found.saved, found.lost) == (8, 6, 2)


@pytest.fixture
def copy(miniature, tmp_path):
    return shutil.copytree(miniature / "workdirs/distill", tmp_path / "copy")


def test_equal_runs_have_no_differences(miniature, copy):
    (copy / "metrics.jsonl").write_text("another time\n")
    assert kill.differences(copy, miniature / "workdirs/distill") == []


def test_every_difference_is_named(miniature, copy):
    part = sorted((copy / "selections").glob("picks-*"))[0]
    part.write_bytes(part.read_bytes() + b"x")
    (copy / "selections/.tmp-1").touch()
    (copy / "tokenizer.model").unlink()
    shutil.copytree(copy / "checkpoints/5", copy / "checkpoints/3")
    assert kill.differences(copy, miniature / "workdirs/distill") == [
        "selections/.tmp-1: left behind",
        "checkpoints/3: in one of the two only",
        "tokenizer.model: in one of the two only",
        f"selections/{part.name}: other bytes",
    ]
