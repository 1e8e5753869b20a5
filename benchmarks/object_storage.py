"""Reading blocks of rows from an object store: ArrayRecord itself, with and without reading ahead, or whole shards.

    python -m benchmarks.object_storage --name=cpu

Enters: a corpus of random rows of 20 kB on average, in an emulator of Google Cloud Storage on this machine, behind a
proxy that counts requests and bytes and makes each request wait. Leaves: `benchmarks/results/object-storage-NAME.json`
and its place in docs/performance.md. Every block is read once, in a seeded order, by several threads:

* `rows`: `read` with a list of rows and ArrayRecord's options for local files, as in Grain's data source;
* `blocks`: `schemas.shards.DatasetReader`, which asks for ranges and reads ahead;
* `shards`: whole shards are downloaded by gcsfs, as many at a time as there are threads, then read from the local disk.

Loopback has no bandwidth to speak of: what a real network adds beside the wait is not measured.
"""

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import performance_page
from schemas import manifest as manifests
from schemas import shards
from tests import commands, gcs

_BUCKET = "bucket"
_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: str  # of the machine, in the result file's name
    shards: int = 4
    rows: int = 512  # a shard's
    row_bytes: int = 20_000  # on average; half to one and a half times as many
    blocks: tuple[int, ...] = (32, 256)  # rows
    threads: tuple[int, ...] = (1, 2, 8)
    delays: tuple[float, ...] = (0.0, 0.02)  # seconds a request


def main(options: Options) -> None:
    """Measures, keeps the figures, and writes the page anew."""
    with tempfile.TemporaryDirectory() as scratch, gcs.emulator(Path(scratch) / "log") as server:
        corpus = make_corpus(Path(scratch), options)
        server.make_bucket(_BUCKET)
        server.upload(Path(scratch) / "corpus", _BUCKET, "corpus")
        rows = [row for delay in options.delays for row in _behind_a_proxy(server, delay, corpus, options)]
    result = {
        "machine": {"cores": os.cpu_count(), "array_record": version("array-record")},
        "shards": options.shards,
        "rows_per_shard": options.rows,
        "row_bytes": options.row_bytes,
        "rows": rows,
    }
    (performance_page.RESULTS / f"object-storage-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()


def make_corpus(folder: Path, options: Options) -> list[manifests.Shard]:
    """Writes the shards; their rows are random bytes behind a name."""
    rng = np.random.default_rng(0)
    described = []
    for index in range(options.shards):
        sizes = rng.integers(options.row_bytes // 2, options.row_bytes * 3 // 2, options.rows)
        path = folder / "corpus" / f"shard-{index}"
        described.append(shards.write_shard(path, (rng.bytes(int(size)) for size in sizes)).shard)
    return described


def _behind_a_proxy(
    server: gcs.Emulator, delay: float, corpus: list[manifests.Shard], options: Options
) -> list[dict[str, Any]]:
    """Measures with one delay, in a process that knows the store by the proxy's address only."""
    port, upstream = commands.free_port(), int(server.url.rsplit(":", 1)[1])
    command = [sys.executable, "-m", "benchmarks.counting_proxy", str(port), str(upstream), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            if proxy.stdout is None or proxy.stdout.readline() != "ready\n":
                raise RuntimeError("the proxy did not start")
            settings = {
                "port": port, "blocks": options.blocks, "threads": options.threads,
                "shards": [shard.model_dump() for shard in corpus],
            }  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.object_storage", "measure", json.dumps(settings)],
                env=os.environ | gcs.Emulator(f"http://127.0.0.1:{port}").environment,
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
        finally:
            proxy.terminate()
    return [{"delay": delay, **json.loads(line)} for line in done.stdout.splitlines()]


def measure(settings: dict[str, Any]) -> None:
    """Prints one line of JSON for every form, block size and number of threads; forms take turns."""
    corpus = [manifests.Shard(**shard) for shard in settings["shards"]]
    total = sum(shard.rows for shard in corpus)
    for block, threads in itertools.product(settings["blocks"], settings["threads"]):
        taken: dict[str, list[float]] = {name: [] for name in FORMS}
        counted: dict[str, dict[str, int]] = {}
        for _ in range(_REPEATS):
            for name, form in FORMS.items():
                counts(settings["port"])
                begin = time.perf_counter()
                form(corpus, _blocks(total, block), threads)
                taken[name].append(time.perf_counter() - begin)
                counted[name] = counts(settings["port"])
        for name, seconds in taken.items():
            row = {
                "form": name, "block": block, "threads": threads,
                "rows_per_second": total / statistics.median(seconds),
                "requests_per_block": counted[name]["requests"] * block / total,
                "bytes_over_size": counted[name]["bytes"] / sum(shard.bytes for shard in corpus),
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            print(row, file=sys.stderr, flush=True)


def _blocks(total: int, size: int) -> list[range]:
    order = np.random.default_rng(0).permutation(total // size)
    return [range(i * size, (i + 1) * size) for i in order.tolist()]


def read_rows(corpus: list[manifests.Shard], blocks: list[range], threads: int) -> None:
    """Every block as a list of rows, with the options for local files."""
    from array_record.python.array_record_module import ArrayRecordReader

    readers = [
        ArrayRecordReader(f"gs://{_BUCKET}/corpus/{shard.name}", options="readahead_buffer_size:0,max_parallelism:0")
        for shard in corpus
    ]
    per_shard = corpus[0].rows

    def read(block: range) -> None:
        readers[block[0] // per_shard].read([row % per_shard for row in block])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, blocks))


def read_blocks(corpus: list[manifests.Shard], blocks: list[range], threads: int) -> None:
    """Every block as the product reads it."""
    _read(shards.DatasetReader(f"gs://{_BUCKET}/corpus", corpus), blocks, threads)


def read_shards(corpus: list[manifests.Shard], blocks: list[range], threads: int) -> None:
    """Every block from local copies, which are made first."""
    import fsspec

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        filesystem = fsspec.filesystem("gs")
        list(pool.map(lambda s: filesystem.get_file(f"{_BUCKET}/corpus/{s.name}", f"{folder}/{s.name}"), corpus))
        _read(shards.DatasetReader(folder, corpus), blocks, threads)


def _read(reader: shards.DatasetReader, blocks: list[range], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(reader.read, blocks))


FORMS = {"rows": read_rows, "blocks": read_blocks, "shards": read_shards}


def counts(port: int) -> dict[str, int]:
    """What the proxy counted since it was last asked; waits until what is under way has been passed on."""
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"counts\n")
        with connection.makefile("rb") as answer:
            return json.loads(answer.read())


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(json.loads(sys.argv[2]))
    else:
        import tyro

        main(tyro.cli(Options, description=__doc__))
