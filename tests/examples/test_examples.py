"""The examples run on a curated set as they stand, their loss falls, and a wrong path is told in one line."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SMALL = ["--steps=20", "--batch_size=8", "--pixels=32", "--width=32"]
WITHOUT_OURS = ["tfds_flax.py", "grain_flax.py"]


def run(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs an example as a user would; isolated, so that nothing of the checkout can be imported."""
    command = [sys.executable, "-I", "-W", "ignore", str(EXAMPLES / name), *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "flags"), [("tfds_flax.py", ["--by_visits"]), ("grain_flax.py", ["--threads=2"])])
def test_towers_learn_with_no_code_of_ours(miniature, tmp_path, name, flags):
    done = run(name, f"--dataset={miniature}/curated", *SMALL, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"step \d+: loss ([\d.]+)", done.stdout)]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", WITHOUT_OURS)
def test_they_import_nothing_of_ours(name):
    nodes = list(ast.walk(ast.parse((EXAMPLES / name).read_text())))
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {"jax", "flax", "tensorflow_datasets"} <= imported
    assert not imported & {"schemas", "trainer", "beam_pipelines", "infra", "examples"}


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs an example's `main` here, where its libraries are imported already."""

    def run_main(name: str, *arguments: str):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        program: dict = {"__name__": name, "__file__": str(EXAMPLES / name)}
        exec(compile((EXAMPLES / name).read_text(), name, "exec"), program)
        return program["main"]()

    return run_main


@pytest.mark.parametrize("name", WITHOUT_OURS)
def test_a_wrong_path_is_told_in_one_line(in_this_process, tmp_path, name):
    with pytest.raises(SystemExit) as stopped:
        in_this_process(name, f"--dataset={tmp_path}/absent")
    assert stopped.value.code == (
        f"{tmp_path}/absent holds no dataset: there is no dataset_info.json. Is the path right?"
    )


def test_rows_are_not_weighted_by_visits_that_nobody_counted(in_this_process, miniature):
    with pytest.raises(SystemExit, match="has no index with selection_visits: it is not a curated dataset"):
        in_this_process("tfds_flax.py", f"--dataset={miniature}/control/uniform", "--by_visits")


def test_superbatch_learns_and_measures(in_this_process, miniature, tmp_path, capsys):
    paths = [f"--held_out={miniature}/corpora/evaluation", f"--workdir={tmp_path}/w"]
    small = ["--steps=6", "--batch_size=8", "--block_size=4", "--warmup_steps=1", "--resolution=32"]
    assert in_this_process("superbatch_train.py", f"--dataset={miniature}/curated", *paths, *small) == 0
    said = capsys.readouterr().out
    first, last = map(
        float, re.search(r"loss ([\d.]+) at the first tenth of 6 steps, ([\d.]+) at the last", said).groups()
    )
    assert last < first
    assert re.search(r"R@1|recall", said)
    assert in_this_process("superbatch_train.py", f"--dataset={tmp_path}/absent", *paths, *small) == 1
    assert "absent is not a complete corpus" in capsys.readouterr().err.splitlines()[-1]
