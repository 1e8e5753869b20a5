"""Trains two small towers on a curated dataset with TFDS and Flax; nothing of Superbatch is needed.

    pip install tensorflow-datasets array-record flax optax pillow pyarrow
    python examples/tfds_flax.py --dataset=gs://bucket/curated/1.0.0 --steps=500

A dataset is read by row: TFDS gives `source[i]`, pictures decoded (examples/grain_flax.py reads ahead, by threads).
With `--by_visits`, rows are drawn in proportion to how often the learner picked them. TFDS has that in each row
(`selection/visits`); the dataset's index has it in one column, in the same order, which is quicker than opening every
picture.

What to expect: a line for every tenth of the steps, with the mean loss over them. It begins near 10, where every pair
of the batch is called wrong, falls fast while the towers learn that most pairs are wrong, and then slowly while they
learn which are right.
"""

import argparse
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from etils import epath
from flax import nnx
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


def load(row: dict, pixels: int) -> dict[str, np.ndarray]:
    """A row as the towers take it: a small picture, and words by a hash."""
    picture = Image.fromarray(row["image"]).resize((pixels, pixels))
    words = [zlib.crc32(word) % (VOCABULARY - 1) + 1 for word in row["text"].lower().split()[:WORDS]]
    return {"image": np.asarray(picture, np.float32), "words": np.array(words + [0] * (WORDS - len(words)))}


def visits(dataset: str) -> np.ndarray:
    """How often each row was picked, from the index, whose files stand in the order of the shards."""
    paths = sorted((epath.Path(dataset) / "index").glob("*.parquet"))
    files = [pq.ParquetFile(pa.BufferReader(path.read_bytes())) for path in paths]
    if not files or "selection_visits" not in files[0].schema_arrow.names:
        sys.exit(f"{dataset} has no index with selection_visits: it is not a curated dataset. Leave out --by_visits")
    return np.concatenate([file.read(["selection_visits"])[0].to_numpy() for file in files]).astype(float)


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
    parser.add_argument(
        "--by_visits", action="store_true", help="draw rows in proportion to how often they were picked"
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    flags = parser.parse_args()

    if not (epath.Path(flags.dataset) / "dataset_info.json").exists():
        sys.exit(f"{flags.dataset} holds no dataset: there is no dataset_info.json. Is the path right?")
    builder: Any = tfds.builder_from_directory(flags.dataset)
    source = builder.as_data_source("train")
    shares = np.cumsum(visits(flags.dataset) if flags.by_visits else np.ones(len(source)))
    shares /= shares[-1]

    model = TwoTowers(flags.width, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(3e-3), wrt=nnx.Param)
    draw, losses = np.random.default_rng(0), []
    for number in range(1, flags.steps + 1):
        rows = np.searchsorted(shares, draw.random(flags.batch_size), side="right")
        examples = [load(source[int(row)], flags.pixels) for row in rows]
        batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
        losses.append(float(step(model, optimizer, batch)))
        if number % max(1, flags.steps // 10) == 0:
            print(f"step {number}: loss {np.mean(losses):.4f}", flush=True)
            losses = []


if __name__ == "__main__":
    main()
