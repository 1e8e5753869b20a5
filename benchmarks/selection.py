"""What joint selection costs: the published form over B × B matrices against ours, side by side in one process.

    python -m benchmarks.selection --name=cpu

Enters: random unit vectors with SigLIP's initial t = 10 and β = −10, the same and with the same keys for every form.
Leaves: `benchmarks/results/selection-NAME.json`, and docs/performance.md with the tables and the plot of every result
file. Times are medians; the forms take turns, so what else a shared machine does falls on all of them. Peak memory is
measured in a process for each form (`benchmarks.selection_memory`).
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import performance_page
from trainer.selection import PairEmbeddings, SelectionConfig, select

_SETTLE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure. The defaults take about half an hour on two CPU cores."""

    name: str  # of the machine, in the result file's name
    sizes: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)  # super-batches that every form can hold
    alone: tuple[int, ...] = (32768, 65536, 131072, 163840)  # those that only ours can
    widths: tuple[int, ...] = (256, 768)
    filter_ratios: tuple[float, ...] = (0.5, 0.8, 0.9)
    subbatch: int = 2048  # the fixed b over which growth with B is fitted
    repeats: int = 5


@functools.partial(jax.jit, static_argnames="config")
def published(key, learner: PairEmbeddings, reference: PairEmbeddings, *, config: SelectionConfig):
    """The indices that JEST's Algorithm 1 (arXiv 2406.17711) draws, written as printed: scores, mask, sums."""
    candidates = learner.image.shape[0]
    z = 2 * jnp.eye(candidates) - 1

    def losses(pairs):
        alignment = jnp.matmul(pairs.image, pairs.text.T, precision=lax.Precision.HIGHEST)
        return jax.nn.softplus(-z * (pairs.scale * alignment + pairs.bias))

    scores = losses(learner) - losses(reference)
    logits_ii = jnp.diag(scores)
    sampled, index = jnp.zeros(candidates), []
    size = config.subbatch_size(candidates)
    for chunk in range(config.chunks):
        logits = logits_ii + (scores * sampled[:, None]).sum(0) + (scores * sampled[None]).sum(1)
        noise = jax.random.gumbel(jax.random.fold_in(key, chunk), (candidates,), jnp.float32)
        count = size // config.chunks + (chunk < size % config.chunks)
        _, drawn = lax.top_k(jnp.where(sampled > 0, -jnp.inf, logits + noise), count)
        sampled = sampled.at[drawn].set(1)
        index.append(drawn)
    return jnp.concatenate(index)


@functools.partial(jax.jit, static_argnames="config")
def ours(key, learner: PairEmbeddings, reference: PairEmbeddings, *, config: SelectionConfig):
    """The same indices by `trainer.selection.select`."""
    return select(key, learner, reference, config).index


@functools.partial(jax.jit, static_argnames="config")
def products(key, learner: PairEmbeddings, reference: PairEmbeddings, *, config: SelectionConfig):
    """Only the matrix products that `ours` cannot do without, each written to memory; nothing is done with them."""
    count = config.subbatch_size(learner.image.shape[0]) // config.chunks

    def chunk(i, total):
        for pairs in (learner, reference):
            for picked, candidates in ((pairs.image, pairs.text), (pairs.text, pairs.image)):
                rows = lax.dynamic_slice_in_dim(picked, i * count, count)
                product = jnp.matmul(rows, candidates.T, precision=lax.Precision.HIGHEST)
                total += lax.optimization_barrier(product)[0, 0]
        return total

    return lax.fori_loop(0, config.chunks - 1, chunk, jnp.float32(0))


FORMS = {"published": published, "ours": ours, "products": products}


def inputs(candidates: int, width: int) -> tuple[jax.Array, PairEmbeddings, PairEmbeddings]:
    """A key, and random embeddings of a learner and of a reference."""

    rng = np.random.default_rng(0)

    def unit() -> jax.Array:
        vectors = rng.standard_normal((candidates, width), np.float32)
        return jnp.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    vectors = [unit() for _ in range(4)]
    scale, bias = jnp.float32(10), jnp.float32(-10)
    learner = PairEmbeddings(vectors[0], vectors[1], scale, bias)
    reference = PairEmbeddings(vectors[2], vectors[3], scale, bias)
    return jax.block_until_ready((jax.random.key(0), learner, reference))


def compiled(form: str, arguments: tuple, config: SelectionConfig) -> Callable[[], Any]:
    """The form as a program for these arguments, ready to run."""
    program = FORMS[form].lower(*arguments, config=config).compile()
    return lambda: jax.block_until_ready(program(*arguments))


def compare(candidates: int, width: int, filter_ratio: float, repeats: int) -> dict[str, Any]:
    """Times all forms in turns."""
    arguments, config = inputs(candidates, width), SelectionConfig(filter_ratio=filter_ratio)
    programs = {form: compiled(form, arguments, config) for form in FORMS}
    seconds = take_turns(programs, repeats)
    turns = list(zip(*seconds.values(), strict=True))
    return {
        "candidates": candidates,
        "width": width,
        "filter_ratio": filter_ratio,
        "seconds": {form: statistics.median(taken) for form, taken in seconds.items()},
        "speedup": statistics.median(published / ours for published, ours, _ in turns),
        "over_products": statistics.median(ours / products for _, ours, products in turns),
        "swapped": swapped(arguments, config, np.asarray(programs["published"]())),
    }


def swapped(arguments: tuple, config: SelectionConfig, index: np.ndarray) -> dict[str, float]:
    """How the published form's picks differ from ours: in how many places, and how near to each other those lie.

    `within` is the largest difference between the perturbed logits of two picks that have changed places, as ours
    computes them; infinite, if a candidate was picked by one form only. Rounding explains about 1e-5.
    """
    key, learner, reference = arguments
    picks = select(key, learner, reference, config)
    ours, chunk, logit = (np.asarray(array) for array in (picks.index, picks.chunk, picks.conditional))
    noise = [
        np.asarray(jax.random.gumbel(jax.random.fold_in(key, c), (len(learner.image),), jnp.float32))
        for c in range(config.chunks)
    ]
    place = {candidate: i for i, candidate in enumerate(ours)}
    within = 0.0
    differ = np.flatnonzero(ours != index)
    for i in differ:
        j = place.get(index[i])
        if j is None or chunk[i] != chunk[j]:
            return {"places": len(differ), "within": float("inf")}
        perturbed = [logit[k] + noise[chunk[k]][ours[k]] for k in (i, j)]
        within = max(within, float(abs(perturbed[0] - perturbed[1])))
    return {"places": len(differ), "within": within}


def time_alone(candidates: int, width: int, filter_ratio: float, repeats: int) -> dict[str, Any]:
    """Times ours where the published form's matrices do not fit."""
    arguments, config = inputs(candidates, width), SelectionConfig(filter_ratio=filter_ratio)
    program = compiled("ours", arguments, config)
    seconds = take_turns({"ours": program}, repeats)["ours"] if repeats > 1 else [_seconds(program)]
    return {
        "candidates": candidates,
        "width": width,
        "filter_ratio": filter_ratio,
        "subbatch": config.subbatch_size(candidates),
        "seconds": statistics.median(seconds),
        "runs": repeats,
    }


def peak_bytes(form: str, candidates: int, width: int, filter_ratio: float) -> int:
    """What the form needs at its peak beyond its inputs, measured in a process of its own."""
    arguments = [form, str(candidates), str(width), str(filter_ratio)]
    command = [sys.executable, "-m", "benchmarks.selection_memory", *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def fitted_exponent(rows: list[dict[str, Any]]) -> float:
    """The exponent p of the least-squares fit seconds ∝ Bᵖ."""
    candidates, seconds = (np.log([row[name] for row in rows]) for name in ("candidates", "seconds"))
    return float(np.polyfit(candidates, seconds, 1)[0])


def measure(options: Options) -> dict[str, Any]:
    """Measures everything; prints each figure as it comes."""

    def noted(row: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(row), flush=True)
        return row

    compared = [
        noted(compare(candidates, width, filter_ratio, options.repeats if candidates <= 8192 else 3))
        for width in options.widths
        for candidates in options.sizes
        for filter_ratio in options.filter_ratios
    ]
    growth = [
        noted(time_alone(candidates, options.widths[0], 1 - options.subbatch / candidates, options.repeats))
        for candidates in (*options.sizes, *options.alone)
        if candidates >= 2 * options.subbatch
    ]
    alone = [
        noted(time_alone(candidates, width, 0.8, options.repeats if candidates <= 32768 else 1))
        for width in options.widths
        for candidates in options.alone
    ]
    memory = [
        noted(
            {"form": form, "candidates": candidates, "width": width, "bytes": peak_bytes(form, candidates, width, 0.8)}
        )
        for width in options.widths
        for form, sizes in (("published", options.sizes), ("ours", (*options.sizes, *options.alone[-1:])))
        for candidates in sizes
    ]
    return {
        "machine": machine(),
        "compared": compared,
        "growth": {"rows": growth, "exponent": fitted_exponent(growth)},
        "alone": alone,
        "memory": memory,
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "jax": jax.__version__}


def take_turns(programs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Runs one program, then the next, and all again; returns the seconds that each run of each took.

    In its turn a program runs for a second before the run that counts. That waits out what the program before leaves
    behind (giving gigabytes back to the system takes most of a second) and brings its own inputs back into the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            while time.perf_counter() - start < _SETTLE_SECONDS:
                program()
            seconds[name].append(_seconds(program))
    return seconds


def _seconds(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    program()
    return time.perf_counter() - start


def main(options: Options) -> None:
    """Measures, keeps the figures, and writes the page anew."""
    result = measure(options)
    (performance_page.RESULTS / f"selection-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
