"""Sharded selection gives one device's picks: on 8 devices of one process, and on 4 devices of each of two."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from schemas.errors import ConfigError
from tests import commands
from tests.trainer import published
from tests.trainer.sharded import CASES, inputs
from trainer.selection import PairEmbeddings, SelectionConfig, select

DEVICES = 8


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def sharded(request, tmp_path_factory) -> list[dict]:
    """What every process of a sharded run reports."""
    folder, processes = tmp_path_factory.mktemp("sharded"), request.param
    port = commands.free_port()
    outputs = [folder / f"{process}.json" for process in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.sharded", *map(str, (output, DEVICES, process, processes, port))],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, output in enumerate(outputs)
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * processes, "\n".join(errors)
    return [json.loads(output.read_text()) for output in outputs]


@pytest.mark.parametrize("name", CASES)
def test_the_picks_are_one_devices(sharded, name):
    case = CASES[name]
    with jax.enable_x64(case.x64):
        learner, reference, valid = inputs(case, seed=1)
        config = SelectionConfig(**case.config)
        expected = select(
            jax.random.key(5),
            PairEmbeddings(*learner),
            PairEmbeddings(*reference),
            config,
            valid=jax.numpy.array(valid),
        )
    for report in sharded:
        picks = report[name]
        assert picks["index"] == expected.index.tolist()
        assert picks["chunk"] == expected.chunk.tolist()
        for field in ("conditional", "learner_nll", "reference_nll"):
            tolerance = 1e-12 if case.x64 else 1e-5
            np.testing.assert_allclose(picks[field], getattr(expected, field), rtol=tolerance, atol=tolerance)


def test_a_chunk_sends_its_best_logits_and_its_picks_and_no_more(sharded):
    case = CASES["float32"]
    subbatch = SelectionConfig(**case.config).subbatch_size(case.candidates)
    chunk, width = -(-subbatch // case.config["chunks"]), max(p[0].shape[1] for p in inputs(case, seed=1)[:2])
    for report in sharded:
        assert 0 < report["gathered"] <= DEVICES * chunk < case.candidates  # each device's best logits
        assert 0 < report["summed"] <= max(chunk * width, subbatch)  # the picks' embeddings; at the end their own terms
        assert report["otherwise_sent"] == 0


def test_what_lies_on_another_device_is_brought_to_the_mesh(sharded):
    if len(sharded) > 1:
        pytest.skip("arrays of another process cannot be brought")
    assert sharded[0]["brought"] == sharded[0]["float32"]["index"]


def test_sharded_embeddings_without_their_mesh_are_refused(sharded):
    if len(sharded) > 1:
        pytest.skip("said by one process as by many")
    assert "learner.image is sharded" in sharded[0]["no mesh"]
    assert "pass that mesh" in sharded[0]["no mesh"]


def test_ties_fall_to_the_lower_index():
    """60,000 float32 noises have equal ones among them."""
    case = CASES["noise alone, with ties"]
    learner, reference, valid = inputs(case, seed=1)
    config = SelectionConfig(**case.config)
    picks = select(
        jax.random.key(5), PairEmbeddings(*learner), PairEmbeddings(*reference), config, valid=jax.numpy.array(valid)
    )
    open_, ties = valid.copy(), 0
    for chunk in range(2):
        noise = np.where(open_, published.noise(jax.random.key(5), chunk, case.candidates), -np.inf)
        drawn = np.argsort(-noise, kind="stable")[: (np.asarray(picks.chunk) == chunk).sum()]
        np.testing.assert_array_equal(np.asarray(picks.index)[np.asarray(picks.chunk) == chunk], drawn)
        ties += len(drawn) - len(np.unique(noise[drawn]))
        open_[drawn] = False
    assert ties > 0


def test_every_process_refuses_what_one_of_them_holds(sharded):
    for report in sharded:
        assert "reference.image is not finite (first at candidate 511)" in report["refused"]


def test_a_mesh_without_a_data_axis_is_refused():
    learner, reference, _ = inputs(CASES["float32"], seed=1)
    mesh = jax.make_mesh((1, 1), ("rows", "columns"))
    with pytest.raises(ConfigError, match=r"axes rows, columns; .* called 'data'"):
        select(jax.random.key(0), PairEmbeddings(*learner), PairEmbeddings(*reference), SelectionConfig(), mesh=mesh)


def test_a_mesh_of_one_device_gives_the_same_picks_whatever_its_axis_is_called():
    case = CASES["float32"]
    learner, reference, valid = inputs(case, seed=1)
    arguments = jax.random.key(0), PairEmbeddings(*learner), PairEmbeddings(*reference), SelectionConfig(**case.config)
    picks = select(*arguments, valid=jax.numpy.array(valid), mesh=jax.make_mesh((1,), ("batch",)))
    np.testing.assert_array_equal(picks.index, select(*arguments, valid=jax.numpy.array(valid)).index)
