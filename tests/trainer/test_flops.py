"""The accounting of operations: against XLA's own count, and the paper's ratios."""

import jax
import numpy as np
import pytest

from trainer import flops, presets
from trainer.config import DistillConfig, TrainConfig
from trainer.model import Architecture, embed_pairs
from trainer.step import Program

PATHS = {"corpus": "c", "workdir": "w"}


@pytest.mark.parametrize("patch_size", [16, 32])
def test_a_forward_pass_is_what_xla_counts(patch_size):
    graph, parameters = Architecture("tiny", 64, 300).build(seed=0)
    images, tokens = np.zeros((64, 64, 64, 3), np.uint8), np.zeros((64, 16), np.int32)
    program = jax.jit(embed_pairs, static_argnums=(0, 4))
    counted = program.lower(graph, parameters, images, tokens, patch_size).compile().cost_analysis()
    expected = 64 * flops.forward(presets.get("tiny"), 64, 16, patch_size)
    # XLA counts more than matrix products (norms, softmax, GELU, pixels), and resizing the kernel once a batch.
    assert expected < counted["flops"] < 1.1 * expected


def test_a_uniform_step_is_three_forward_passes():
    preset = presets.get("B/16")
    config = TrainConfig(**PATHS, preset="B/16", batch_size=64)
    assert flops.step(config, Architecture("B/16", 224, 32_000)) == 3 * 64 * flops.forward(preset, 224, 64)


def test_a_vit_b_16_is_of_the_known_size():
    """An image of 224 pixels is known to cost 17.5 billion multiply-adds; 64 text tokens cost 5.5 billion."""
    assert flops.forward(presets.get("B/16"), 224, 64) / 2 == pytest.approx(17.5e9 + 5.5e9, rel=0.03)


@pytest.mark.parametrize(
    ("filter_ratio", "flexi", "low", "high"),
    [(0.8, False, 2.66, 2.67), (0.5, False, 1.66, 1.67), (0.9, False, 4.33, 4.34), (0.8, True, 1.0, 1.4)],
)
def test_ratios_to_a_uniform_step_are_the_papers(filter_ratio, flexi, low, high):
    shared = PATHS | {"preset": "B/16", "batch_size": 320, "resolution": 256, "block_size": 320}
    jest = DistillConfig(**shared, embeddings="e", filter_ratio=filter_ratio, flexi=flexi)
    architecture = Architecture("B/16", 256, 32_000)
    ratio = flops.step(jest, architecture) / flops.step(TrainConfig(**shared), architecture)
    assert low <= ratio <= high


@pytest.mark.parametrize("flexi", [False, True])
def test_a_step_is_within_a_tenth_of_what_xla_counts(flexi):
    config = DistillConfig(**PATHS, embeddings="e", batch_size=128, flexi=flexi)
    architecture = Architecture("tiny", 64, 300)
    program = Program(
        graph=architecture.shapes()[0], optimisation=config.optimisation, selection=config.selection,
        scoring=config.scoring,
    )  # fmt: skip
    measured = flops.measured_step(config, program, architecture, reference_width=128)
    assert measured == pytest.approx(flops.step(config, architecture), rel=0.1)


def test_xlas_count_of_a_selection_grows_with_its_chunks_work_and_not_with_their_number():
    """Every chunk's body is counted as often as it runs: the products are those of the whole sub-batch."""
    width, rows, size = 128, 640, 128

    def selection(**changes):
        config = DistillConfig(**PATHS, embeddings="e", batch_size=size, **changes)
        return flops._selection(config, Architecture("tiny", 64, 300), width)

    products = 2 * 2 * 2 * rows * size * width  # learner and reference, rows and columns, multiply and add
    for chunks in (4, 16):
        drawn = 1 - 1 / chunks  # nothing is added after the last chunk
        assert products * drawn < selection(chunks=chunks) < 1.25 * products * drawn
    assert selection(joint=False) < 0.05 * products
