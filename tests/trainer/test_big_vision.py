"""big_vision's SigLIP checkpoints: every preset's parameters, the forward pass, and errors that list what is wrong."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from schemas.errors import ConfigError, DataError
from tests.trainer import siglip
from trainer import big_vision, presets
from trainer.model import Architecture, embed_pairs

SMALL = ("tiny", 64, 300, 16)


def arguments(name, resolution, vocabulary, length):
    return presets.get(name), resolution, vocabulary, length


@pytest.fixture
def shallow(monkeypatch):
    """Presets at full width and depth 2."""
    for name in ("S/16", "B/16", "L/16", "So400m/14"):
        preset = presets.PRESETS[name]
        encoder = dataclasses.replace(preset.image, depth=2)
        monkeypatch.setitem(
            presets.PRESETS, f"{name} shallow", dataclasses.replace(preset, image=encoder, text=encoder)
        )


@pytest.fixture(scope="module")
def small():
    return siglip.random_parameters(0, *arguments(*SMALL))


def save(path, arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["tiny", "S/16", "B/16 shallow", "L/16 shallow", "So400m/14 shallow"])
def test_every_preset_has_the_parameters_of_its_checkpoint(name):
    preset = presets.get(name)
    architecture = Architecture(name, preset.resolution, preset.vocabulary)
    wanted = siglip.shapes(preset, preset.resolution, preset.vocabulary, preset.text_length)
    arrays = {parameter: np.broadcast_to(np.float32(0), shape) for parameter, shape in wanted.items()}
    big_vision.check(arrays, architecture.shapes()[1], "checkpoint")


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["tiny", "S/16 shallow", "B/16 shallow", "L/16 shallow", "So400m/14 shallow"])
def test_the_forward_pass_is_big_visions(name, tmp_path):
    resolution = 4 * presets.get(name).patch_size
    parameters = siglip.random_parameters(1, *arguments(name, resolution, 300, presets.get(name).text_length))
    path = save(tmp_path / "siglip.npz", {f"params/{key}": array for key, array in parameters.items()})
    graph, like = Architecture(name, resolution, 300).shapes()
    loaded = big_vision.to_parameters(big_vision.read(path), like, path)
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, resolution, resolution, 3), dtype=np.uint8)
    tokens = rng.integers(0, 300, (2, presets.get(name).text_length)).astype(np.int32)
    pairs = embed_pairs(graph, loaded, images, tokens)
    heads = presets.get(name).image.heads, presets.get(name).text.heads
    image, text = siglip.embed(parameters, images, tokens, *heads)
    np.testing.assert_allclose(pairs.image, image, atol=1e-5)
    np.testing.assert_allclose(pairs.text, text, atol=1e-5)
    assert float(pairs.scale) == pytest.approx(np.exp(2.3), rel=1e-6)
    assert float(pairs.bias) == pytest.approx(-10.2, rel=1e-6)


def test_stacked_blocks_prefixes_and_bfloat16_are_read_alike(small, tmp_path):
    plain = big_vision.read(save(tmp_path / "plain.npz", small))
    stacked = {}
    for name, array in small.items():
        if "/encoderblock_" in name:
            head, _, rest = name.partition("/encoderblock_")
            layer, _, parameter = rest.partition("/")
            stacked.setdefault(f"{head}/encoderblock/{parameter}", {})[int(layer)] = array
        else:
            stacked[name] = array
    stacked = {
        f"params/{name}": np.stack([value[i] for i in sorted(value)]) if isinstance(value, dict) else value
        for name, value in stacked.items()
    }
    stacked["opt/0/mu/t"] = np.zeros(1)
    read = big_vision.read(save(tmp_path / "stacked.npz", stacked))
    assert read.keys() == plain.keys() == small.keys()
    assert all(np.array_equal(read[name], plain[name]) for name in plain)

    halved = {name: array.astype(ml_dtypes.bfloat16) for name, array in small.items()}
    read = big_vision.read(save(tmp_path / "bfloat16.npz", halved))
    assert all(np.array_equal(read[name].astype(np.float32), halved[name].astype(np.float32)) for name in halved)


def test_what_is_written_is_read_back(small, tmp_path):
    _, like = Architecture(*SMALL[:3]).shapes()
    parameters = big_vision.to_parameters(small, like, "memory")
    (tmp_path / "ours.npz").write_bytes(big_vision.write(parameters))
    read = big_vision.read(str(tmp_path / "ours.npz"))
    assert {name: array.shape for name, array in read.items()} == siglip.shapes(*arguments(*SMALL))
    assert all(np.array_equal(read[name], small[name]) for name in small)
    again = big_vision.to_parameters(read, like, "ours.npz")
    assert jax.tree.all(jax.tree.map(np.array_equal, again, parameters))


def test_missing_extra_and_misshaped_parameters_are_listed(small):
    broken = dict(small)
    del broken["txt/head/bias"]
    broken["img/cls"] = np.zeros((1, 1, 128), np.float32)
    broken["img/pos_embedding"] = np.zeros((1, 49, 128), np.float32)
    with pytest.raises(ConfigError) as error:
        big_vision.check(broken, Architecture(*SMALL[:3]).shapes()[1], "model.npz")
    message = str(error.value)
    assert "model.npz" in message
    assert "Missing: txt/head/bias (128,)" in message
    assert "Not part of the model: img/cls (1, 1, 128)" in message
    assert "img/pos_embedding is (1, 49, 128) and must be (1, 16, 128)" in message
    assert "made for a resolution of 112" in message


def test_a_long_list_is_cut(small):
    with pytest.raises(ConfigError, match=r"Missing: (.*, ){7}\S+ \([\d, ]+\) and \d+ more"):
        big_vision.check({"t": small["t"]}, Architecture(*SMALL[:3]).shapes()[1], "model.npz")


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", t=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(DataError, match=r"evil\.npz cannot be read"):
        big_vision.read(str(tmp_path / "evil.npz"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but not a zip", b"hello"])
def test_files_that_are_no_checkpoints_are_refused(content, tmp_path):
    (tmp_path / "file.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"file\.npz cannot be read as a big_vision checkpoint"):
        big_vision.read(str(tmp_path / "file.npz"))
