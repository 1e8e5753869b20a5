"""The loop: a run that was stopped goes on as if it had not been, and divergence is told in one line."""

import dataclasses
import json

import numpy as np
import pytest

from schemas import manifest as manifests
from schemas.errors import ConfigError, DataError
from trainer import loop
from trainer.cached_reference import CachedReference
from trainer.config import DistillConfig
from trainer.selections_log import SelectionsLog


class StoppedError(Exception):
    pass


def config_of(miniature, workdir, **changes) -> DistillConfig:
    stored = json.loads((miniature / "workdirs/distill/config.json").read_text())["config"]
    return DistillConfig(**{**stored, "workdir": str(workdir), **changes})


@pytest.mark.parametrize("checkpoint_every", [3, 4])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(miniature, tmp_path, monkeypatch, checkpoint_every):
    """With a checkpoint inside a selections part, and one at its end."""
    config = config_of(miniature, tmp_path / "w", checkpoint_every=checkpoint_every)
    add = SelectionsLog.add

    def stop_at_last_step(self, step, rows, blocks, scored):
        if step == 4:
            raise StoppedError
        add(self, step, rows, blocks, scored)

    with monkeypatch.context() as patched:
        patched.setattr(SelectionsLog, "add", stop_at_last_step)
        with pytest.raises(StoppedError):
            loop.run(config)
    assert not manifests.exists(config.workdir)
    loop.run(config)
    for part in ("", "/selections"):
        whole = manifests.read(f"{miniature}/workdirs/distill{part}")
        resumed = manifests.read(f"{config.workdir}{part}")
        assert resumed.fingerprint == whole.fingerprint
    hashes = [
        {s.name: s.sha256 for s in manifests.read(f"{d}/selections").shards}
        for d in (config.workdir, miniature / "workdirs/distill")
    ]
    assert hashes[0] == hashes[1]


def test_a_workdir_of_another_run_is_refused(miniature, tmp_path):
    with pytest.raises(ConfigError, match="chunks was 3, now 2"):
        loop.run(config_of(miniature, miniature / "workdirs/distill", chunks=2))


def test_too_few_valid_embeddings_say_how_many(miniature, tmp_path, monkeypatch):
    read = CachedReference.read

    def mostly_invalid(self, rows, uids):
        image, text, valid = read(self, rows, uids)
        return image, text, np.arange(len(valid)) == 0

    monkeypatch.setattr(CachedReference, "read", mostly_invalid)
    with pytest.raises(DataError, match=r"step 0: 5 of 40 candidates have valid embeddings and 8 picks are wanted"):
        loop.run(config_of(miniature, tmp_path / "w"))


def test_a_single_score_that_is_not_finite_stops_the_run(miniature, tmp_path, monkeypatch):
    read = CachedReference.read

    def one_damaged(self, rows, uids):
        image, text, valid = read(self, rows, uids)
        image[0] = np.where(rows[0] == 0, np.nan, image[0])
        return image, text, valid

    monkeypatch.setattr(CachedReference, "read", one_damaged)
    with pytest.raises(DataError, match=r"step \d: a candidate's score is not finite: .*lower learning_rate"):
        loop.run(config_of(miniature, tmp_path / "w"))


def test_every_setting_that_changes_what_is_learned_is_content():
    config = DistillConfig(corpus="c", workdir="w", embeddings="e")
    operational = {
        "corpus", "workdir", "name", "version", "tokenizer", "checkpoint_every", "log_every", "workers", "embeddings",
        "reference", "scoring_batch", "worker_processes", "shard_parameters", "distributed", "evaluation",
        "evaluate_every", "profile",
    }  # fmt: skip
    assert {f.name for f in dataclasses.fields(config)} - operational == set(manifests.content_fields(config))
