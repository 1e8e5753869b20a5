"""What reading costs: the product's input pipeline against a bare loop, and a whole step against its two halves.

    python -m benchmarks.input --name=cpu

Enters: a generated corpus of JPEGs and a reference's embeddings of it, on the local disk. Leaves:
`benchmarks/results/input-NAME.json` and its place in docs/performance.md. Compared, in turns in one process:

* `bare loop`: N threads take the blocks of the same steps in order; each is one ArrayRecord read of the corpus file and
  one of the embeddings file, then every example's image and text are parsed out, decoded and tokenised. Left out is
  all else that the product does: Grain and its queue, keeping blocks in order, stacking images and joining blocks into
  a super-batch, parsing uids and comparing them row by row, unpacking and renormalising embeddings, checked indices;
* `threads`: `trainer.data.iterate` with N threads;
* `processes`: the same with N worker processes of one thread each;
* `compute`: `trainer.step.distill_step` on one super-batch that lies on the device;
* `loop`: the whole of `trainer.loop.run`, by `seconds_per_step` in the middle one of the three lines of its
  metrics.jsonl: in the first it compiles, and towards the end nothing is left to read.

A pipeline reads ahead; so before each turn that counts, it is drawn from until nothing is left of what it read in the
others' turns, and steps are timed from one yield to another.
"""

import concurrent.futures
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import generated, performance_page, selection
from benchmarks import step as steps
from schemas import manifest as manifests
from schemas import records, shards
from trainer import cached_reference, loop, presets, step, tokenizer
from trainer.config import DistillConfig
from trainer.data import BlockLoader, Blocks, iterate
from trainer.decode import decode_image
from trainer.metrics import METRICS_FILE
from trainer.model import Architecture

_READ_AHEAD = 6  # steps: more than any pipeline here holds
_LAST_STEP = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: str = "cpu"  # of the machine, in the result file's name
    rows: int = 2048  # of the corpus, in one shard
    pixels: int = 256  # a side, as stored
    resolution: int = 64  # pixels a side, as trained
    batch_size: int = 128  # the sub-batch b; a step reads B = 5 b rows
    threads: int = 2
    steps: int = 9  # timed in one turn
    repeats: int = 5
    decoded: tuple[int, ...] = (256, 128, 64, 32)  # pixels a side, of the comparison of decoding alone


def config_of(options: Options, made: generated.Artifacts, workdir: str) -> DistillConfig:
    """The run whose input and steps are measured: `tiny`, at the product's defaults."""
    return DistillConfig(
        corpus=made.corpus, embeddings=made.embeddings, workdir=workdir, resolution=options.resolution,
        batch_size=options.batch_size, steps=3 * options.steps, log_every=options.steps, checkpoint_every=_LAST_STEP,
        warmup_steps=0, workers=options.threads,
    )  # fmt: skip


def loader_of(config: DistillConfig) -> BlockLoader:
    """The loader that the loop would make."""
    corpus = manifests.read(config.corpus, kind="corpus")
    cached = cached_reference.open_cached(config, cached_reference.check(config, corpus))
    return BlockLoader(
        corpus=shards.open_dataset(config.corpus, corpus),
        blocks=Blocks(corpus.rows, config.block_size, config.superbatch_size // config.block_size, config.seed),
        tokenizer=tokenizer.load(f"{config.embeddings}/{tokenizer.FILE_NAME}", presets.get(config.preset).text_length),
        resolution=config.scored_pixels,
        decoder=cached.info.decoder,
        reference=cached,
    )


# --- Reading ----------------------------------------------------------------------------------------------------------


class Bare:
    """The same blocks with nothing around them; see the module's docstring for what is left out."""

    def __init__(self, config: DistillConfig, loader: BlockLoader):
        from array_record.python.array_record_module import ArrayRecordReader

        names = [(d, manifests.read(d).shards[0].name) for d in (config.corpus, config.embeddings)]
        options = "readahead_buffer_size:0,max_parallelism:0"
        self._readers = [ArrayRecordReader(f"{folder}/{name}", options=options) for folder, name in names]
        self._loader, self._threads = loader, config.workers
        self._message = records._example_class()

    def read(self, block: int) -> tuple[list[np.ndarray], np.ndarray, list[bytes]]:
        """Reads, decodes and tokenises one block."""
        size, loader = self._loader.blocks.size, self._loader
        rows, embeddings = (reader.read(block * size, (block + 1) * size) for reader in self._readers)
        features = [self._message.FromString(row).features.feature for row in rows]
        images = [f["image"].bytes_list.value[0] for f in features]
        texts = [f["text"].bytes_list.value[0].decode() for f in features]
        decoded = [decode_image(image, loader.resolution, loader.decoder) for image in images]
        return decoded, loader.tokenizer(texts), embeddings

    def run(self, count: int) -> None:
        """Reads the blocks of the first `count` steps, and keeps none: what is held has to be newly allocated."""
        blocks = [int(block) for step in range(count) for block in self._loader.blocks.of_step(step)]
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(self._read_and_drop, blocks):
                pass

    def _read_and_drop(self, block: int) -> None:
        self.read(block)


def seconds_a_step(rows: Iterator[Any], count: int) -> float:
    """The time between yields of a pipeline that has nothing left of what it read in others' turns."""
    for _ in range(_READ_AHEAD):
        next(rows)
    begin = time.perf_counter()
    for _ in range(count):
        next(rows)
    return (time.perf_counter() - begin) / count


def decoding(made: generated.Artifacts, resolutions: tuple[int, ...]) -> list[dict[str, float]]:
    """Images a second that one thread decodes to each resolution, in turns."""
    corpus = shards.open_dataset(made.corpus, manifests.read(made.corpus))
    images = [records.decode_example(row).image for row in corpus.read(range(min(256, len(corpus))))]

    def decode(resolution: int) -> Callable[[], None]:
        def run() -> None:
            for image in images:
                decode_image(image, resolution)

        return run

    taken = selection.take_turns({str(pixels): decode(pixels) for pixels in resolutions}, 3)
    seconds = {pixels: statistics.median(taken[str(pixels)]) for pixels in resolutions}
    halves = {pixels: taken.get(str(pixels // 2)) for pixels in resolutions}
    return [
        {
            "resolution": pixels,
            "images_per_second": len(images) / seconds[pixels],
            **({"half_faster": steps.median_ratio(taken[str(pixels)], half)} if (half := halves[pixels]) else {}),
        }
        for pixels in resolutions
    ]


# --- Steps ------------------------------------------------------------------------------------------------------------


def compute_of(config: DistillConfig, loader: BlockLoader) -> Callable[[], None]:
    """A step on one super-batch that lies on the device."""
    architecture = Architecture(config.preset, config.pixels, loader.tokenizer.vocabulary, decoder=loader.decoder)
    learner, program = steps.Learner(architecture, config), steps.program_of(config, architecture)
    candidates, key = steps.candidates_of(config.superbatch_size, architecture), jax.random.key(0)
    return lambda: learner.run(lambda state: step.distill_step(program, state, key, candidates))


def run_loop(config: DistillConfig) -> dict[str, float]:
    """Runs the product's loop; returns the middle line of its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        loop.run(dataclasses.replace(config, workdir=f"{folder}/workdir"))
        lines = (Path(folder) / "workdir" / METRICS_FILE).read_text().splitlines()
    return json.loads(lines[1])


def measure(options: Options, made: generated.Artifacts) -> dict[str, Any]:
    """Measures everything in turns."""
    config = config_of(options, made, workdir="none")
    loader, stalls = loader_of(config), []
    bare, compute = Bare(config, loader), compute_of(config, loader)
    threads = iterate(loader, 0, _LAST_STEP, options.threads)
    processes = iterate(loader, 0, _LAST_STEP, 1, options.threads)

    def timed(run: Callable[[], Any], per: int) -> float:
        begin = time.perf_counter()
        run()
        return (time.perf_counter() - begin) / per

    def looped() -> float:
        line = run_loop(config)
        stalls.append(line["input_stall"])
        return line["seconds_per_step"]

    runs: dict[str, Callable[[], float]] = {
        "bare": lambda: timed(lambda: bare.run(options.steps), options.steps),
        "threads": lambda: seconds_a_step(threads, options.steps),
        "processes": lambda: seconds_a_step(processes, options.steps),
        "compute": lambda: timed(lambda: [compute() for _ in range(options.steps)], options.steps),
        "loop": looped,
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for number in range(options.repeats + 1):
            for name, run in runs.items():
                seconds = run()
                print(name, f"{seconds:.4f} s a step", flush=True)
                if number:  # the first turn warms up
                    taken[name].append(seconds)
    finally:
        threads.close()
        processes.close()
    apart = [compute + read for compute, read in zip(taken["compute"], taken["threads"], strict=True)]
    return {
        "machine": selection.machine(),
        "rows": options.rows,
        "pixels": options.pixels,
        "row_bytes": manifests.read(made.corpus).shards[0].bytes / options.rows,
        "resolution": options.resolution,
        "batch_size": options.batch_size,
        "superbatch_size": config.superbatch_size,
        "threads": options.threads,
        "reading": [
            {
                "form": name,
                "rows_per_second": config.superbatch_size / statistics.median(taken[name]),
                "of_bare": steps.median_ratio(taken["bare"], taken[name]),
            }
            for name in ("bare", "threads", "processes")
        ],
        "step": {
            "seconds": {name: statistics.median(taken[name]) for name in ("compute", "threads", "loop")},
            "over_apart": steps.median_ratio(taken["loop"], apart),
            "over_compute": steps.median_ratio(taken["loop"], taken["compute"]),
            "input_stall": statistics.median(stalls[1:]),
        },
        "decoding": decoding(made, options.decoded),
    }


def main(options: Options) -> None:
    """Measures, keeps the figures, and writes the page anew."""
    with tempfile.TemporaryDirectory() as scratch:
        made = generated.make(
            Path(scratch), count=options.rows, pixels=options.pixels, resolution=options.resolution, shards=1
        )
        result = measure(options, made)
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"input-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
