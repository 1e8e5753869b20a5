"""What the Beam jobs cost: `embed` against a bare jitted loop, `ingest` against the work on its images, and memory.

    python -m benchmarks.beam_jobs --name=cpu

Enters: generated JPEGs, and a reference whose parameters are random. Leaves: `benchmarks/results/beam-jobs-NAME.json`
and its place in docs/performance.md. Compared, in turns:

* `embed`: the whole job on a local runner, with its reference loaded and compiled before; against `bare`, the same
  jitted function of the same model over the same batches, which are decoded and tokenised beforehand;
* `embed` with two worker processes of one thread each, from the begin of the first shard to the
  end of the last; against two bare loops of one thread each, side by side in processes of their own;
* `ingest`: the whole job; against checking and hashing the same images in a loop, and against TFDS's builder that does
  the same in its generator. Then with two worker processes, as the difference between a long and a short job, since
  processes take seconds to start;
* decoding by the product and by Pillow alone, to the same pixels;
* peak memory of each job's process on N and on 4 N rows.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
import numpy as np
from apache_beam.metrics.metric import MetricsFilter

from beam_pipelines import embed, ingest, job, sources
from benchmarks import generated, performance_page, selection, tfds_builder
from benchmarks import step as steps
from benchmarks.noise import write_folder
from schemas import manifest as manifests
from schemas import records
from trainer import decode
from trainer.model import Model, Source

_ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
}
_TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: str = "cpu"  # of the machine, in the result file's name
    rows: int = 512
    pixels: int = 256  # a side, as stored
    preset: str = "S/16"
    resolution: int = 224
    batch_size: int = 64
    shards: int = 4
    repeats: int = 3
    ingested: int = 4096  # rows of the long ingest; the short one has an eighth
    memory_rows: int = 2048  # N
    parts: tuple[str, ...] = ("decoding", "ingest", "embed", "workers", "memory")  # the others stay as they were


# --- embed ------------------------------------------------------------------------------------------------------------


def batches_of(corpus: str, model: Model, size: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The batches that `embed` makes of a corpus: how many of their rows count, pixels and tokens."""
    manifest, found = manifests.read(corpus), []
    config = embed.EmbedConfig(corpus=corpus, reference="none", output="none", batch_size=size)
    for index, shard in enumerate(manifest.shards):
        task = embed.ShardTask(index, shard)
        for batch in embed.read_batches(config, model, task):
            found.append((len(batch.examples), batch.pixels, batch.tokens))
    return found


def bare_loop(model: Model, batches: list[tuple[int, np.ndarray, np.ndarray]]) -> float:
    """Embeds the batches one after another; returns seconds."""
    begin = time.perf_counter()
    for _, pixels, tokens in batches:
        model.embed(pixels, tokens)
    return time.perf_counter() - begin


def embed_against_bare(options: Options, made: "Made", scratch: Path) -> dict[str, Any]:
    """The whole job against the bare loop, both with all cores."""
    model = Source(made.reference).load()
    batches = batches_of(made.corpus, model, options.batch_size)
    bare_loop(model, batches[:1])  # compiles

    def whole() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as output:
            config = embed.EmbedConfig(
                corpus=made.corpus, reference=made.reference, output=f"{output}/e", batch_size=options.batch_size
            )
            with mock.patch.object(Source, "load", return_value=model):
                begin = time.perf_counter()
                embed.run(config, [])
                return time.perf_counter() - begin

    taken = turns({"bare": lambda: bare_loop(model, batches), "embed": whole}, options.repeats)
    return {
        "rows": made.rows,
        "rows_per_second": {name: made.rows / statistics.median(seconds) for name, seconds in taken.items()},
        "of_bare": steps.median_ratio(taken["bare"], taken["embed"]),
    }


def one_thread_workers(options: Options, made: "Made", scratch: Path) -> dict[str, Any]:
    """Two workers of one thread each against two bare loops of one thread each, in turns."""
    with tempfile.TemporaryDirectory(dir=scratch) as compiled:
        environment = generated.environment(
            **_ONE_THREAD, JAX_COMPILATION_CACHE_DIR=compiled, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
        )

        def seconds(part: str, count: int) -> float:
            """Of all rows, by both: `count` processes of a part run side by side."""
            command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--part", part]
            command += ["--options", json.dumps(dataclasses.asdict(options)), "--made", json.dumps(made.as_json())]
            running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(count)]
            said = [process.communicate()[0] for process in running]
            if any(process.returncode for process in running):
                raise RuntimeError(f"{part} failed")
            return 1 / sum(1 / json.loads(line.splitlines()[-1]) for line in said)

        taken = turns({"bare": lambda: seconds("bare", 2), "embed": lambda: seconds("embed", 1)}, options.repeats)
    return {
        "rows_per_second": {name: made.rows / statistics.median(seconds) for name, seconds in taken.items()},
        "of_bare": steps.median_ratio(taken["bare"], taken["embed"]),
    }


def bare_part(options: Options, made: "Made") -> float:
    """Seconds of a bare loop over all batches."""
    model = Source(made.reference).load()
    batches = batches_of(made.corpus, model, options.batch_size)
    bare_loop(model, batches[:1])
    return bare_loop(model, batches)


def embed_part(options: Options, made: "Made") -> float:
    """Seconds of a job with two worker processes, from the begin of its first shard to the end of its last.

    The first shard ends when its file is committed, and takes as long as shards do on average.
    """
    with tempfile.TemporaryDirectory() as output:
        config = embed.EmbedConfig(
            corpus=made.corpus, reference=made.reference, output=f"{output}/e", batch_size=options.batch_size, workers=1
        )
        corpus = manifests.read(made.corpus)
        parents = [manifests.as_parent("corpus", made.corpus, corpus), config.source.as_parent("reference")]
        pipeline = beam.Pipeline(options=job.parse_options([*_TWO_PROCESSES], config))
        embed.build(pipeline, config, corpus, parents)
        result = pipeline.run()
        result.wait_until_finish()
        ends = [path.stat().st_mtime for path in Path(config.output).glob("*.array_record-*")]
    found = result.metrics().query(MetricsFilter().with_name(embed.MILLISECONDS))
    [shard] = [entry.committed for entry in found["distributions"]]
    return max(ends) - min(ends) + shard.sum / shard.count / 1000


# --- ingest -----------------------------------------------------------------------------------------------------------


def ingest_seconds(source: str, flags: tuple[str, ...], scratch: Path) -> float:
    """The whole job."""
    with tempfile.TemporaryDirectory(dir=scratch) as output:
        config = ingest.IngestConfig(source=source, name="generated", output=f"{output}/corpus")
        begin = time.perf_counter()
        ingest.run(config, list(flags))
        return time.perf_counter() - begin


def ingest_against_images(options: Options, scratch: Path) -> dict[str, Any]:
    """The whole job against the work on its images alone; and one process against two."""
    addresses, pairs = {}, list(generated.pairs(options.ingested, options.pixels))
    for label, count in (("long", options.ingested), ("short", options.ingested // 8)):
        write_folder(scratch / label, pairs[:count], seed=0)
        addresses[label] = f"folder:{scratch / label}"
    config = ingest.IngestConfig(source=addresses["long"], name="generated", output="none")
    raw = [sources.RawPair(source=str(i), image=p.image, text=p.text) for i, p in enumerate(pairs)]

    def bare() -> float:
        begin = time.perf_counter()
        for pair in raw:
            records.encode_example(ingest.normalise_pair(pair, config))
        return time.perf_counter() - begin

    def one_less_start(flags: tuple[str, ...]) -> float:
        return ingest_seconds(addresses["long"], flags, scratch) - ingest_seconds(addresses["short"], flags, scratch)

    def built_by_tfds() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as output:
            begin = time.perf_counter()
            tfds_builder.build(scratch / "long", config, Path(output), config.shards)
            return time.perf_counter() - begin

    runs = {
        "bare": bare,
        "tfds": built_by_tfds,
        "ingest": lambda: ingest_seconds(addresses["long"], (), scratch),
        "one process": lambda: one_less_start(()),
        "two processes": lambda: one_less_start(_TWO_PROCESSES),
    }
    taken = turns(runs, options.repeats)
    beyond_short = options.ingested - options.ingested // 8
    rows: dict[str, int] = dict.fromkeys(("bare", "tfds", "ingest"), options.ingested)
    return {
        "rows": options.ingested,
        "rows_per_second": {n: rows.get(n, beyond_short) / statistics.median(s) for n, s in taken.items()},
        "of_bare": steps.median_ratio(taken["bare"], taken["ingest"]),
        "of_tfds": steps.median_ratio(taken["tfds"], taken["ingest"]),
        "two_over_one": steps.median_ratio(taken["one process"], taken["two processes"]),
    }


def decoding(options: Options) -> list[dict[str, Any]]:
    """Images a second of the product's decoding and of Pillow's alone, which gives the same pixels."""
    images = [pair.image for pair in generated.pairs(128, options.pixels)]
    found = []
    for resolution in (64, options.resolution):

        def run(resolution: int = resolution) -> float:
            begin = time.perf_counter()
            for image in images:
                decode.decode_image(image, resolution)
            return time.perf_counter() - begin

        def pillow(run: Callable[[], float] = run) -> float:
            with mock.patch.object(decode, "_plain_jpeg", return_value=None):
                return run()

        taken = turns({"product": run, "pillow": pillow}, 5)
        found.append(
            {
                "resolution": resolution,
                "images_per_second": {name: len(images) / statistics.median(s) for name, s in taken.items()},
                "faster": steps.median_ratio(taken["pillow"], taken["product"]),
            }
        )
    return found


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(options: Options, scratch: Path) -> list[dict[str, Any]]:
    """Peak memory of each job's own process, on N and on 4 N rows of small pictures with a `tiny` reference."""
    found = []
    for rows in (options.memory_rows, 4 * options.memory_rows):
        folder = scratch / f"memory-{rows}"
        made = generated.make(folder, count=rows, pixels=128, resolution=32, shards=4)
        distill = str(folder / "distill")
        generated.superbatch(
            "distill", f"--corpus={made.corpus}", f"--embeddings={made.embeddings}", f"--workdir={distill}",
            "--resolution=32", f"--steps={rows // 320}", "--warmup_steps=1", "--batch_size=64", "--block_size=32",
        )  # fmt: skip
        jobs = {
            "ingest": [f"--source=folder:{folder / 'raw'}", "--name=again", "--shards=4"],
            "embed": [f"--corpus={made.corpus}", f"--reference={folder / 'reference'}"],
            "curate": [f"--corpus={made.corpus}", f"--selections={distill}", "--budget=0.1", "--shards=4"],
        }
        for name, flags in jobs.items():
            command = [*generated.SUPERBATCH, name, *flags, f"--output={folder / name}-again"]
            found.append({"job": name, "rows": rows, "bytes": peak_of(command)})
    return found


def peak_of(command: list[str]) -> int:
    """Runs a command; returns the largest resident size it had, in bytes."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command], env=generated.environment(), check=True, capture_output=True
    )
    return int(done.stdout.split()[-1]) * 1024


# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A corpus, and a reference that was trained for one step."""

    corpus: str
    reference: str
    rows: int

    def as_json(self) -> dict[str, Any]:
        """For a part that runs in another process."""
        return dataclasses.asdict(self)


def make(options: Options, folder: Path) -> Made:
    """Makes the corpus and the reference."""
    write_folder(folder / "raw", list(generated.pairs(options.rows, options.pixels)), seed=0)
    made = Made(str(folder / "corpus"), str(folder / "reference"), options.rows)
    generated.superbatch(
        "ingest", f"--source=folder:{folder / 'raw'}", "--name=generated", f"--output={made.corpus}",
        f"--shards={options.shards}",
    )  # fmt: skip
    generated.superbatch(
        "train", f"--corpus={made.corpus}", f"--workdir={made.reference}", f"--preset={options.preset}",
        f"--resolution={options.resolution}", "--steps=1", "--warmup_steps=0", "--batch_size=4", "--block_size=4",
    )  # fmt: skip
    return made


def turns(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Runs each in turn, `repeats` times after one that does not count; returns the seconds."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            seconds = run()
            print(f"{name}: {seconds:.4g}", file=sys.stderr, flush=True)
            if number:
                taken[name].append(seconds)
    return taken


def measure(options: Options, scratch: Path) -> Iterator[tuple[str, Any]]:
    """Yields the parts of the result as they are measured."""
    made = make(options, scratch / "embed") if {"embed", "workers"} & set(options.parts) else Made("", "", 0)
    parts: dict[str, Callable[[], Any]] = {
        "decoding": lambda: decoding(options),
        "ingest": lambda: ingest_against_images(options, scratch),
        "embed": lambda: embed_against_bare(options, made, scratch),
        "workers": lambda: one_thread_workers(options, made, scratch),
        "memory": lambda: memory(options, scratch),
    }
    for name in options.parts:
        yield name, parts[name]()


def main(options: Options) -> None:
    """Measures, keeps the figures part by part, and writes the page anew."""
    path = performance_page.RESULTS / f"beam-jobs-{options.name}.json"
    described = {name: getattr(options, name) for name in ("pixels", "preset", "resolution", "batch_size")}
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"machine": selection.machine()} | described
    with tempfile.TemporaryDirectory() as scratch:
        for name, part in measure(options, Path(scratch)):
            result[name] = part
            print(json.dumps({name: part}, indent=1), flush=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()


if __name__ == "__main__":
    import tyro

    if sys.argv[1:2] == ["--part"]:  # in a process of its own
        _, _, part, _, given, _, where = sys.argv
        run_part = {"bare": bare_part, "embed": embed_part}[part]
        print(json.dumps(run_part(Options(**json.loads(given)), Made(**json.loads(where)))))
    else:
        main(tyro.cli(Options, description=__doc__))
