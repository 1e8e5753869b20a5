"""Shared pieces: pictures, raw folders, and one miniature round that several files look at."""

import atexit
import fcntl
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

# Before jax is imported: one device, and no preallocation surprises.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests, and the processes they start, compile the same programs.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="superbatch-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import numpy as np
import pytest
from PIL import Image

collect_ignore = ["airflow"]  # needs Airflow's environment: `make airflow-test`


def picture(seed: int, *, pixels: int = 32, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A reproducible picture: two coloured halves."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((pixels, pixels, 3), np.uint8)
    canvas[:, : pixels // 2] = rng.integers(0, 256, 3)
    canvas[:, pixels // 2 :] = rng.integers(0, 256, 3)
    output = io.BytesIO()
    Image.fromarray(canvas).convert(mode).save(output, kind)
    return output.getvalue()


def write_folder(directory: Path, pairs: list[tuple[bytes, str]]) -> Path:
    """Writes (image, text) pairs as `folder:` reads them."""
    (directory / "images").mkdir(parents=True)
    lines = []
    for number, (image, text) in enumerate(pairs):
        name = f"images/{number:04d}.png"
        (directory / name).write_bytes(image)
        lines.append(json.dumps({"file_name": name, "text": text, "language": "en"}))
    (directory / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return directory


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole round on 96 generated pairs, made once by the real commands; tests must not change it."""
    from infra import cli

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one for all of pytest's processes, whose folders lie side by side
        base = base.parent
    root, made = base / "miniature", base / "miniature.made"
    with (base / "miniature.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            root.mkdir()
            write_miniature(root)
            assert cli.main(["round", f"--config={root / 'round.toml'}"]) == 0
            made.touch()
    return root / "out"


def write_miniature(root: Path) -> None:
    """Writes the raw data and the round's file of the miniature."""
    words = ["red", "green", "blue", "round", "square", "big", "small", "old"]
    pool = [(picture(i), f"a {words[i % 8]} thing number {i}") for i in range(96)]
    pool += [pool[0], (b"<html>404</html>", "not found"), (picture(1)[:60], "cut off")]
    write_folder(root / "pool", pool)
    write_folder(root / "seed", [(picture(1000 + i), f"a {words[i % 8]} thing number {i}") for i in range(48)])
    write_folder(root / "evaluation", [(picture(2000 + i), f"a {words[i % 8]} thing") for i in range(16)])
    (root / "round.toml").write_text(
        f"""
name = "mini"
output = "{root}/out"
seed = "folder:{root}/seed"
pool = "folder:{root}/pool"
evaluation = "folder:{root}/evaluation"
downstream_seeds = [0]

[ingest]
shards = 2

[train]  # like [downstream], so that the test process compiles one program for both
steps = 3
batch_size = 8
block_size = 4
warmup_steps = 1
resolution = 32

[distill]
steps = 5
batch_size = 8
block_size = 8
filter_ratio = 0.8
chunks = 3
warmup_steps = 1
resolution = 32
steps_per_part = 2
checkpoint_every = 2

[curate]
budget = 16
shards = 2

[downstream]
steps = 3
batch_size = 8
block_size = 4
warmup_steps = 1
resolution = 32
"""
    )
