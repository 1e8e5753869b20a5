"""A big_vision `.npz` as the reference: the embeddings of the workdir it was written from, and clear refusals."""

import json

import numpy as np
import pytest

from infra.cli import main
from schemas import manifest as manifests
from schemas.errors import ConfigError
from tests import conftest
from trainer import big_vision
from trainer.decode import BIG_VISION, decode_image
from trainer.model import Source


@pytest.fixture(scope="module")
def checkpoint(miniature, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "siglip.npz"
    model = Source(str(miniature / "workdirs/reference")).load()
    path.write_bytes(big_vision.write(model.parameters))
    return path


@pytest.fixture
def flags(miniature, checkpoint):
    tokenizer = miniature / "workdirs/reference/tokenizer.model"
    return [f"--reference={checkpoint}", "--preset=tiny", "--resolution=32", f"--tokenizer={tokenizer}"]


def test_embeddings_are_those_of_the_same_model_in_a_workdir(miniature, flags, tmp_path, capsys):
    output = tmp_path / "embeddings"
    arguments = ["embed", f"--corpus={miniature / 'corpora/pool'}", f"--output={output}", *flags]
    arguments.append("--decoder=antialiased")  # as the workdir's model, and unlike big_vision's
    assert main(arguments) == 0
    ours, theirs = manifests.read(str(output)), manifests.read(str(miniature / "embeddings"))
    assert [shard.sha256 for shard in ours.shards] == [shard.sha256 for shard in theirs.shards]
    assert ours.embeddings == theirs.embeddings
    assert ours.parent("reference").fingerprint != theirs.parent("reference").fingerprint
    assert (output / "tokenizer.model").read_bytes() == (miniature / "embeddings/tokenizer.model").read_bytes()

    assert main(["verify", str(output)]) == 0
    capsys.readouterr()
    assert main(["lineage", str(output)]) == 0
    assert "reference: checkpoint " in capsys.readouterr().out
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_distill_reads_them(miniature, flags, tmp_path):
    corpus, output = miniature / "corpora/pool", tmp_path / "embeddings"
    assert main(["embed", f"--corpus={corpus}", f"--output={output}", *flags]) == 0
    distill = ["distill", f"--corpus={corpus}", f"--embeddings={output}", f"--workdir={tmp_path / 'workdir'}"]
    distill += ["--steps=1", "--warmup_steps=1", "--batch_size=8", "--block_size=8", "--chunks=3", "--resolution=32"]
    assert main(distill) == 0
    ours, theirs = tmp_path / "workdir/selections", miniature / "workdirs/distill/selections"
    assert manifests.read(str(ours)).parent("embeddings").fingerprint == manifests.read(str(output)).fingerprint
    assert theirs.exists()


def test_evaluate_reads_it(miniature, flags, capsys):
    corpus = f"--corpus={miniature / 'corpora/evaluation'}"
    found = []
    for model in (
        [f"--checkpoint={miniature / 'workdirs/reference'}"],
        [flags[0].replace("reference", "checkpoint", 1), *flags[1:]],
    ):
        capsys.readouterr()
        assert main(["evaluate", *model, corpus, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


def test_a_checkpoint_sees_images_as_big_vision_does_unless_told_otherwise(flags, checkpoint):
    path, preset, resolution, tokenizer = (flag.split("=")[1] for flag in flags)
    ours, given, default = (
        Source(path, preset, int(resolution), tokenizer, decoder) for decoder in ("antialiased", "big_vision", None)
    )
    picture = conftest.picture(5, pixels=200)
    np.testing.assert_array_equal(default.load().decode(picture), decode_image(picture, 32, BIG_VISION))
    np.testing.assert_array_equal(ours.load().decode(picture), decode_image(picture, 32))
    assert given.fingerprint() == default.fingerprint() != ours.fingerprint()


def test_a_decoder_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="decoder is 'lanczos'; it must be one of antialiased, big_vision"):
        Source("model.npz", "tiny", 32, "t.model", "lanczos")
    with pytest.raises(ConfigError, match="which says itself how it decodes: leave out --decoder"):
        Source("workdir", decoder="big_vision")


@pytest.mark.parametrize("absent", ["preset", "resolution", "tokenizer"])
def test_what_parameters_alone_do_not_say_is_asked_for(absent):
    given = {"preset": "tiny", "resolution": 32, "tokenizer": "t.model"}
    del given[absent]
    with pytest.raises(ConfigError, match=rf"model\.npz holds parameters only: give --{absent} as well"):
        Source("model.npz", **given)


def test_a_workdir_says_itself_what_it_is():
    with pytest.raises(ConfigError, match=r"leave out --preset, --resolution"):
        Source("workdir", preset="tiny", resolution=32)


def test_another_tokenizer_is_refused(miniature, checkpoint, tmp_path):
    from trainer import tokenizer

    other = tokenizer.train(["some words", "of another language"], 40, 16)
    (tmp_path / "other.model").write_bytes(other.model)
    with pytest.raises(ConfigError, match=rf"embeds \d+ token ids and the tokenizer .* has {other.vocabulary}"):
        Source(str(checkpoint), "tiny", 32, str(tmp_path / "other.model")).load()


def test_another_resolution_is_refused(miniature, checkpoint):
    with pytest.raises(ConfigError, match=r"img/pos_embedding is \(1, 4, 128\) and must be \(1, 16, 128\)"):
        Source(str(checkpoint), "tiny", 64, str(miniature / "workdirs/reference/tokenizer.model")).load()


def test_a_damaged_tokenizer_is_named(miniature, checkpoint, tmp_path):
    (tmp_path / "bad.model").write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(ConfigError, match="not a SentencePiece model"):
        Source(str(checkpoint), "tiny", 32, str(tmp_path / "bad.model")).load()
