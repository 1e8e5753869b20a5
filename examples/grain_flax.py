"""Trains two small towers on a curated dataset with Grain and Flax; nothing of Superbatch is needed.

    pip install grain tensorflow-datasets array-record flax optax pillow
    python examples/grain_flax.py --dataset=gs://bucket/curated/1.0.0 --steps=500 --threads=32

Grain reads the ArrayRecord shards itself, on `gs://` too, and shuffles, decodes and batches ahead of the training loop,
in threads (`mp_prefetch` adds processes). TFDS knows what the files are called and what is in a row. Every epoch has an
order of its own, which follows from the seed; the iterator's state can be saved and set.

What to expect: a line for every tenth of the steps, with the mean loss over them and the examples a second, reading
included. The loss begins near 10, where every pair of the batch is called wrong, falls fast while the towers learn that
most pairs are wrong, and then slowly while they learn which are right.
"""

import argparse
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow_datasets as tfds
from etils import epath
from flax import nnx
from grain.sources import ArrayRecordDataSource
from PIL import Image

WORDS, VOCABULARY = 16, 4096


class TwoTowers(nnx.Module):
    """An image tower that sees patches of 8 × 8 pixels, a text tower that sees a bag of words, and SigLIP's t and β."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.patches = nnx.Conv(3, width, (8, 8), strides=(8, 8), rngs=rngs)
        self.image = nnx.Linear(width, width, rngs=rngs)
        self.words = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.text = nnx.Linear(width, width, rngs=rngs)
        self.log_scale = nnx.Param(jnp.log(10.0))
        self.bias = nnx.Param(jnp.array(-10.0))

    def __call__(self, image: jax.Array, words: jax.Array) -> jax.Array:
        """Logits of all pairs of the batch, [image, text]."""
        x = self.image(nnx.gelu(self.patches(image / 127.5 - 1)).mean((1, 2)))
        y = self.text(nnx.gelu((self.words(words) * (words > 0)[..., None]).sum(1)))
        x, y = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y))
        return jnp.exp(self.log_scale[...]) * x @ y.T + self.bias[...]


def batches(dataset: str, flags: argparse.Namespace) -> grain.IterDataset:
    """Endless batches: shuffled rows, decoded and resized ahead of time."""
    info: Any = tfds.builder_from_directory(dataset).info

    def load(record: bytes) -> dict[str, np.ndarray]:
        row = info.features.deserialize_example_np(record)
        picture = Image.fromarray(row["image"]).resize((flags.pixels, flags.pixels))
        words = [zlib.crc32(word) % (VOCABULARY - 1) + 1 for word in row["text"].lower().split()[:WORDS]]
        return {"image": np.asarray(picture, np.float32), "words": np.array(words + [0] * (WORDS - len(words)))}

    source: Any = ArrayRecordDataSource([str(path) for path in info.splits["train"].filepaths])
    rows = (
        grain.MapDataset.source(source)
        .seed(0)
        .shuffle()
        .repeat()
        .map(load)
        .batch(flags.batch_size, drop_remainder=True)
    )
    ahead = grain.ReadOptions(num_threads=flags.threads, prefetch_buffer_size=2 * flags.threads)
    return rows.to_iter_dataset(ahead)


@nnx.jit
def step(model: TwoTowers, optimizer: nnx.Optimizer, batch: Mapping[str, Any]) -> jax.Array:
    """One update by the sigmoid loss (arXiv 2303.15343); returns the loss."""

    def loss(model: TwoTowers) -> jax.Array:
        logits = model(batch["image"], batch["words"])
        return -jax.nn.log_sigmoid(logits * (2 * jnp.eye(len(logits)) - 1)).sum(-1).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main() -> None:
    """Reads the flags, trains, prints the loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="directory of a dataset, local or gs://")
    parser.add_argument("--threads", type=int, default=8, help="that read and decode")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    flags = parser.parse_args()

    if not (epath.Path(flags.dataset) / "dataset_info.json").exists():
        sys.exit(f"{flags.dataset} holds no dataset: there is no dataset_info.json. Is the path right?")

    model = TwoTowers(flags.width, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(3e-3), wrt=nnx.Param)
    losses, begin, every = [], time.monotonic(), max(1, flags.steps // 10)
    for number, batch in zip(range(1, flags.steps + 1), batches(flags.dataset, flags), strict=False):
        losses.append(float(step(model, optimizer, batch)))
        if number % every == 0:
            speed = len(losses) * flags.batch_size / (time.monotonic() - begin)
            print(f"step {number}: loss {np.mean(losses):.4f}, {speed:.0f} examples/s", flush=True)
            losses, begin = [], time.monotonic()


if __name__ == "__main__":
    main()
