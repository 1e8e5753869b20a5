"""`superbatch plan` of the miniature's round: measured here, for a device, and beside what the round took."""

import json
import shutil
from pathlib import Path

import pytest

from infra import cli, timings
from infra import round as rounds


@pytest.fixture(scope="module")
def plan(miniature, tmp_path_factory) -> Path:
    """A round like the miniature's whose output is elsewhere, planned but not run."""
    root = tmp_path_factory.mktemp("plan")
    text = (miniature.parent / "round.toml").read_text()
    (root / "round.toml").write_text(text.replace(f'output = "{miniature}"', f'output = "{root}/out"'))
    assert cli.main(["plan", f"--config={root}/round.toml", "--rows=1_000_000", "--steps=12"]) == 0
    return root


def test_every_stage_is_planned_and_nothing_is_left_behind(plan):
    kept = json.loads((plan / "out/plan.json").read_text())
    own, million = kept["scenarios"]
    stages = [stage for stage, _ in rounds.plan(rounds.read(str(plan / "round.toml")))]
    assert [stage["name"] for stage in own["stages"]] == [stage.name for stage in stages]
    assert all(stage["seconds"] > 0 and stage["bytes_out"] > 0 for stage in own["stages"])
    assert own["size"]["raw"] == 99
    assert own["size"]["kept"] == 96
    assert million["seconds"] > own["seconds"]
    assert million["capacity"]["picks"] == million["size"]["distill_steps"] * 8
    assert {path.name for path in (plan / "out").iterdir()} == {"plan.json"}


def test_a_device_is_planned_with_what_was_measured(plan, capsys):
    flags = [f"--config={plan}/round.toml", f"--measured={plan}/out/plan.json", "--device=tpu-v5e", "--rows=1_000_000"]
    before = (plan / "out/plan.json").read_bytes()
    assert cli.main(["plan", *flags]) == 0
    said = capsys.readouterr().out
    assert "16 × tpu-v5e at 40 % of 197 TFLOP/s" in said
    assert "1,000,000 raw rows, 969,697 kept" in said
    assert "Bottleneck: " in said
    assert (plan / "out/plan.json").read_bytes() == before  # what happens here is not to be compared with that


def test_a_round_leaves_its_seconds_beside_the_plan(miniature, plan, capsys):
    assert cli.main(["plan", f"--config={plan}/round.toml", "--actual"]) == 1
    assert "names no stage that has run" in capsys.readouterr().err
    took = timings.read(str(miniature))
    assert all(timing.completed and timing.seconds > 0 for timing in took)
    shutil.copy(miniature / timings.FILE_NAME, plan / "out")
    assert cli.main(["plan", f"--config={plan}/round.toml", "--actual", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert {name: stage["actual"] for name, stage in compared["stages"].items()} == timings.actual(took)
    assert compared["ratio"] == pytest.approx(compared["total"]["planned"] / compared["total"]["actual"])
