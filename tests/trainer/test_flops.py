"""The accounting of operations: against XLA's own count, and the paper's ratios."""

import jax
import numpy as np
import pytest

from trainer import flops, presets
from trainer.config import DistillConfig, TrainConfig
from trainer.model import Architecture, embed_pairs

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
