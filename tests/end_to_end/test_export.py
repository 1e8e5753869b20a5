"""`superbatch export --format=big_vision`: the file is read back as the same model, and nothing is overwritten."""

import hashlib
import re
import shlex
import shutil

import jax
import numpy as np
import pytest

from infra.cli import main
from schemas import storage
from schemas.errors import IntegrityError
from trainer import big_vision
from trainer.model import Source, parameters_fingerprint


@pytest.fixture
def command(miniature, tmp_path):
    """Exports the miniature's reference; the folder does not exist yet."""
    return [
        "export", "--format=big_vision", f"--checkpoint={miniature / 'workdirs/reference'}",
        f"--output={tmp_path / 'out of here/siglip.npz'}",
    ]  # fmt: skip


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out of here/siglip.npz"


def failure(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def snapshot(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_flags_it_prints_read_the_same_model_back(miniature, command, output, capsys):
    assert main(command) == 0
    line = capsys.readouterr().out
    found = re.fullmatch(r"exported (.+): (\d+) parameters, sha256 (\w{12}); read it back with (.+)\n", line)
    assert found
    assert found[1] == str(output)
    assert hashlib.sha256(output.read_bytes()).hexdigest().startswith(found[3])
    preset, resolution, decoder, tokenizer = (flag.split("=")[1] for flag in shlex.split(found[4]))
    assert (preset, resolution, decoder) == ("tiny", "32", "antialiased")
    assert tokenizer == str(output.with_name("siglip.tokenizer.model"))

    ours = Source(str(output), preset, int(resolution), tokenizer, decoder).load()
    theirs = Source(str(miniature / "workdirs/reference")).load()
    assert int(found[2]) == sum(np.size(leaf) for leaf in jax.tree.leaves(theirs.parameters))
    assert parameters_fingerprint(ours.parameters) == parameters_fingerprint(theirs.parameters)
    assert ours.info == theirs.info
    assert sorted(path.name for path in output.parent.iterdir()) == ["siglip.npz", "siglip.tokenizer.model"]


def test_evaluate_takes_the_printed_flags(miniature, command, output, capsys):
    assert main(command) == 0
    flags = shlex.split(capsys.readouterr().out.partition("read it back with ")[2])
    printed = []
    for model in ([f"--checkpoint={output}", *flags], [f"--checkpoint={miniature / 'workdirs/reference'}"]):
        assert main(["evaluate", *model, f"--corpus={miniature / 'corpora/evaluation'}", "--json"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_a_rerun_changes_nothing_and_says_so(command, output, capsys):
    assert main(command) == 0
    line = capsys.readouterr().out
    before = snapshot(output.parent)
    assert main(command) == 0
    again = capsys.readouterr()
    assert f"{output} is complete already: nothing to do" in again.err
    assert again.out == line
    assert snapshot(output.parent) == before


def test_two_exports_are_byte_identical(command, output, monkeypatch):
    import time

    assert main(command) == 0
    first = snapshot(output.parent)
    shutil.rmtree(output.parent)
    later = time.time() + 400 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert main(command) == 0
    assert {name: content for name, (content, _) in snapshot(output.parent).items()} == {
        name: content for name, (content, _) in first.items()
    }


def test_a_lost_tokenizer_is_written_again(command, output, capsys):
    assert main(command) == 0
    before = snapshot(output.parent)
    output.with_name("siglip.tokenizer.model").unlink()
    assert main(command) == 0
    assert "nothing to do" not in capsys.readouterr().err
    after = snapshot(output.parent)
    assert after["siglip.tokenizer.model"][0] == before["siglip.tokenizer.model"][0]
    assert after["siglip.npz"] == before["siglip.npz"]


@pytest.mark.parametrize("name", ["siglip.npz", "siglip.tokenizer.model"])
def test_other_content_is_refused_with_both_hashes_and_nothing_is_written(command, output, capsys, name):
    assert main(command) == 0
    ours = hashlib.sha256(output.with_name(name).read_bytes()).hexdigest()
    shutil.rmtree(output.parent)
    output.parent.mkdir()
    output.with_name(name).write_bytes(b"something else")
    line = failure(capsys, *command)
    theirs = hashlib.sha256(b"something else").hexdigest()
    assert f"{output.with_name(name)} is there already with other content: its sha256 is {theirs[:12]}" in line
    assert f"this model gives {ours[:12]}" in line
    assert {n: content for n, (content, _) in snapshot(output.parent).items()} == {name: b"something else"}


def test_who_loses_the_race_to_another_model_is_told(command, output, monkeypatch):
    """The name is free when it is looked at, and taken when it is committed."""
    from beam_pipelines import export

    commit = storage.write_once

    def beaten(path, content):
        assert commit(path, b"another model")
        return commit(path, content)

    monkeypatch.setattr(storage, "write_once", beaten)
    config = export.ExportConfig(
        **dict(zip(("format", "checkpoint", "output"), (flag.split("=", 1)[1] for flag in command[1:]), strict=True))
    )
    with pytest.raises(IntegrityError, match="is there already with other content"):
        export.run(config)


def test_a_distilled_learner_can_be_exported(miniature, output, capsys):
    workdir = miniature / "workdirs/distill"
    assert main(["export", "--format=big_vision", f"--checkpoint={workdir}", f"--output={output}"]) == 0
    assert "params/img/MAPHead_0/probe" in np.load(output).files  # by big_vision's names
    written = big_vision.read(str(output))
    scale = Source(str(workdir)).load().scale
    assert float(np.exp(written["t"][0])) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--checkpoint=m.npz", "--output=o.npz"], "checkpoint is 'm.npz', which is a big_vision checkpoint already"),
        (["--checkpoint=w", "--output=o"], "output is 'o'; format big_vision makes one file, FILE.npz"),
        (["--checkpoint=/nowhere", "--output=o.npz"], "/nowhere is not a complete model"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_told_in_one_line(capsys, flags, words):
    assert words in failure(capsys, "export", "--format=big_vision", *flags)


def test_an_unfinished_run_is_refused(miniature, tmp_path, capsys):
    shutil.copytree(miniature / "workdirs/reference", tmp_path / "w")
    (tmp_path / "w/manifest.json").unlink()
    line = failure(
        capsys, "export", "--format=big_vision", f"--checkpoint={tmp_path / 'w'}", f"--output={tmp_path / 'o.npz'}"
    )
    assert f"{tmp_path / 'w'} is not a complete model" in line
    assert not (tmp_path / "o.npz").exists()
