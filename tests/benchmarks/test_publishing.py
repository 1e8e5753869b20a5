"""The benchmark of publishing would notice: broken promises, and damage that nobody named."""

import random

import pytest

from beam_pipelines import verify
from benchmarks import damage, publishing

SHARDS = {f"n-train.array_record-0000{k}-of-00002": bytes(8) for k in range(2)}
SOURCE = SHARDS | {"README.md": b"r", "features.json": b"f", "dataset_info.json": b"d", "manifest.json": b"m"}
CLAIM = {"_claim.json": b"c"}


@pytest.mark.parametrize(
    "found",
    [CLAIM, CLAIM | SHARDS, CLAIM | SOURCE, {n: c for n, c in (CLAIM | SOURCE).items() if n != "manifest.json"}],
)
def test_what_a_kill_may_leave(found):
    assert list(publishing.wrong_with(found, SOURCE)) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {n: c for n, c in (CLAIM | SOURCE).items() if n != "README.md"},
            "manifest.json is there without ['README.md']",
        ),
        (CLAIM | {"features.json": b"f"} | dict(list(SHARDS.items())[:1]), "features.json is there without ["),
        (SHARDS, "there is no claim"),
        (CLAIM | SHARDS | {"README.md": b"half"}, "README.md has other bytes"),
        (CLAIM | {"stray": b""}, "stray is left over"),
    ],
)
def test_what_a_kill_may_not_leave(found, words):
    [problem] = publishing.wrong_with(found, SOURCE)
    assert problem.startswith(words)


def test_damage_that_verify_does_not_name_is_counted(tmp_path, monkeypatch):
    for name, content in SHARDS.items():
        (tmp_path / name).write_bytes(content)
    first, second = sorted(SHARDS)

    def names_the_first(config):
        changed = damage.contents(tmp_path) != SHARDS
        return [verify.Verified("", "corpus", "", "", "", "full", 2, 0, 0, [f"{first}: changed"] if changed else [])]

    monkeypatch.setattr(verify, "run", names_the_first)
    [row], problems = damage.flip(tmp_path, 50, random.Random(0))
    assert row["times"] == 50
    assert 0 < row["named"] < 50
    assert len(problems) == 50 - row["named"]
    assert all(f"of {second} was flipped" in problem for problem in problems)
    counts, _ = damage.harm(tmp_path, random.Random(0))
    assert {count["harm"]: count["named"] for count in counts} == {
        "missing": 1, "extra": 0, "truncated": 1, "renamed": 0, "swapped": 0,
    }  # fmt: skip
    assert damage.contents(tmp_path) == SHARDS
