"""The loop: a run that was stopped goes on as if it had not been, and divergence is told in one line."""

import dataclasses
import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from tensorboardX.proto import event_pb2

from schemas import job_config, records, shards
from schemas import manifest as manifests
from schemas.errors import ConfigError, DataError
from trainer import evaluate, loop
from trainer.cached_reference import CachedReference
from trainer.config import DistillConfig
from trainer.data import PickDecoder
from trainer.decode import decode_image
from trainer.metrics import METRICS_FILE, PHASES
from trainer.model import Source
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
        "reference", "scoring_batch", "worker_processes", "shard_parameters", "distributed", "exit_code_if_stopped",
        "evaluation", "evaluation_labelled", "evaluation_shots_from", "evaluate_every", "profile",
    }  # fmt: skip
    assert {f.name for f in dataclasses.fields(config)} - operational == set(job_config.content_fields(config))


def test_a_run_tells_where_its_time_goes_what_it_costs_and_how_it_retrieves(miniature, tmp_path):
    workdir = tmp_path / "w"
    evaluation = str(miniature / "corpora/evaluation")
    loop.run(config_of(miniature, workdir, log_every=1, evaluation=evaluation, evaluate_every=2, profile=True))
    lines = [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
    for line in steps[1:]:
        phases = sum(line[f"seconds_{phase}"] for phase in PHASES if f"seconds_{phase}" in line)
        assert 0 < phases <= line["seconds_per_step"] * 1.01
        assert 0 <= line["input_stall"] <= 1
        assert line["flops_xla"] == pytest.approx(line["flops"], rel=0.1)
    assert steps[4]["flops"] == 5 * steps[0]["flops"] > 0
    measured = [line for line in lines if "evaluation/images" in line]
    assert [line["step"] for line in measured] == [2, 4, 5]
    expected = evaluate.run(evaluate.EvaluateConfig(checkpoint=str(workdir), corpus=evaluation))
    assert {f"evaluation/{name}": value for name, value in expected.items()} == {
        name: value for name, value in measured[-1].items() if name != "step"
    }
    assert list((workdir / "profile").rglob("*perfetto_trace*"))


def test_tensorboard_has_the_same_numbers(miniature, tmp_path):
    workdir = miniature / "workdirs/distill"
    line = json.loads((workdir / METRICS_FILE).read_text().splitlines()[-1])
    found = {}
    for path in (workdir / "tensorboard").iterdir():
        with path.open("rb") as file:
            while header := file.read(8):  # TFRecord: length, its checksum, an event, its checksum
                file.read(4)
                event = event_pb2.Event.FromString(file.read(int.from_bytes(header, "little")))
                file.read(4)
                found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    assert {tag for step, tag in found if step == 5} == set(line) - {"step"}
    for name in set(line) - {"step"}:
        assert found[5, name] == pytest.approx(line[name], rel=1e-6)


def test_smaller_candidates_are_scored_and_picks_are_learned_from_whole(miniature, tmp_path, monkeypatch):
    seen = []

    def watched(self, step, held, picks):
        images = decode(self, step, held, picks)
        seen.append((held["image"].shape, images.shape))
        rows = held["row"][picks]
        stored = shards.open_dataset(str(miniature / "corpora/pool"), manifests.read(str(miniature / "corpora/pool")))
        expected = [decode_image(records.decode_example(r).image, 32) for r in stored.read(rows.tolist())]
        np.testing.assert_array_equal(images, expected)
        return images

    decode = PickDecoder.__call__
    monkeypatch.setattr(PickDecoder, "__call__", watched)
    loop.run(config_of(miniature, tmp_path / "w", steps=2, scoring_resolution=16))
    assert seen == [((40, 16, 16, 3), (8, 32, 32, 3))] * 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scoring_resolution": 15}, "scoring_resolution is 15; an image of 32 pixels in patches of 16 can be scored"),
        ({"worker_processes": -1}, "worker_processes is -1"),
        ({"profile": True, "workdir": "gs://bucket/w"}, "--profile writes its trace to a local one"),
        ({"evaluation_shots_from": "s"}, "evaluation_shots_from is 's'; it needs --evaluation_labelled"),
        ({"evaluate_every": 0}, "evaluate_every is 0"),
        ({"augment": True}, "augment is for `train`"),
    ],
)
def test_settings_that_cannot_be_are_refused(miniature, tmp_path, fields, words):
    with pytest.raises(ConfigError, match=words):
        config_of(miniature, **{"workdir": tmp_path / "w", **fields})


def test_a_step_in_bfloat16_scores_nearly_the_same_and_keeps_float32_parameters(miniature, tmp_path):
    loop.run(config_of(miniature, tmp_path / "w", steps=1, dtype="bfloat16"))
    ours, theirs = (
        pq.read_table(next((workdir / "selections").glob("picks-00000000-*"))).to_pandas().query("step == 0")
        for workdir in (tmp_path / "w", miniature / "workdirs/distill")
    )
    both = ours.merge(theirs, on="uid")
    assert len(both) >= 6  # of eight
    np.testing.assert_allclose(both.learner_nll_x, both.learner_nll_y, atol=0.1)
    assert not np.allclose(both.learner_nll_x, both.learner_nll_y, atol=1e-6)
    with (tmp_path / "w" / "config.json").open() as file:
        assert json.load(file)["config"]["dtype"] == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(Source(str(tmp_path / "w")).load().parameters)} == {
        np.dtype(np.float32)
    }
