"""The bare loop reads, decodes and tokenises the very rows that the product does; pictures are reproducible."""

import io

import numpy as np
from PIL import Image

from benchmarks import generated
from benchmarks import input as inputs
from schemas import manifest as manifests
from schemas import records
from trainer.config import DistillConfig


def test_the_bare_loop_does_the_products_work(miniature, tmp_path):
    config = DistillConfig(
        corpus=f"{miniature}/corpora/pool", embeddings=f"{miniature}/embeddings", workdir=str(tmp_path), resolution=32,
        batch_size=8, block_size=8, chunks=4,
    )  # fmt: skip
    loader = inputs.loader_of(config)
    bare = inputs.Bare(config, loader)
    within = manifests.read(config.corpus).shards[0].rows // config.block_size  # the bare loop knows one shard
    place, block = next((i, block) for i, block in enumerate(loader.blocks.of_step(0)) if block < within)
    images, tokens, embeddings = bare.read(block)
    rows = loader(place)
    np.testing.assert_array_equal(np.stack(images), rows["image"])
    np.testing.assert_array_equal(tokens, rows["tokens"])
    assert [records.decode_embedding(e).uid for e in embeddings] == rows["uid"].tolist()


def test_a_pipeline_is_timed_after_what_it_had_read_ahead():
    rows = iter(range(100))
    assert inputs.seconds_a_step(rows, 5) > 0
    assert next(rows) == inputs._READ_AHEAD + 5


def test_pictures_are_reproducible_jpegs_of_a_photographs_size():
    pairs, again = (list(generated.pairs(3, 256)) for _ in range(2))
    assert pairs == again
    assert len({pair.image for pair in pairs}) == 3
    for pair in pairs:
        assert 15_000 < len(pair.image) < 40_000
        with Image.open(io.BytesIO(pair.image)) as image:
            assert (image.format, image.size) == ("JPEG", (256, 256))
