"""What one chunk costs in other forms, and what pruning could save: the experiments behind `trainer.selection`.

    python -m benchmarks.chunk --name=cpu

A chunk of n picks adds Σ_i softplus(t x_i·y_j + β) to every candidate j: a product of [n, d] by [d, B], an elementwise
function and a sum. Enters: random unit vectors, t = 10 and β = −10. Leaves: `benchmarks/results/chunk-NAME.json` and
its place in docs/performance.md. Times are medians over turns, for one product; each program runs several, so that
buffers are used again as they are in a selection.
"""

import functools
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import performance_page, selection
from trainer.selection import SelectionConfig, pair_scores, softplus

_CHUNKS = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: str  # of the machine, in the result file's name
    candidates: int = 16384
    width: int = 256
    repeats: int = 15


def product(a, b, dtype=jnp.float32, result=jnp.float32):
    """A · Bᵀ, in the given input and accumulation types."""
    scaled = (a * 127, b * 127) if dtype == jnp.int8 else (a, b)
    left, right = (array.astype(dtype) for array in scaled)
    return jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST, preferred_element_type=result)


def _written(product: Callable) -> Callable:
    """Forces the product to memory and does nothing with it."""

    def form(picked, candidates):
        written = lax.optimization_barrier(product(picked, candidates))
        return (written[0] if written.shape[0] == len(picked) else written[:, 0]).astype(jnp.float32)

    return form


def _summed(function: Callable, candidates_first: bool) -> Callable:
    def form(picked, candidates):
        if candidates_first:
            return function(10 * product(candidates, picked) - 10).sum(1)
        return function(10 * product(picked, candidates) - 10).sum(0)

    return form


def _blocked(picked, candidates, block: int = 2048):
    blocks = candidates.reshape(-1, block, candidates.shape[1])
    return lax.map(lambda these: _summed(softplus, True)(picked, these), blocks).ravel()


FORMS: dict[str, Callable] = {
    "bare product, [n, B]": _written(product),
    "bare product, [B, n]": _written(lambda picked, candidates: product(candidates, picked)),
    "bare product, bfloat16 inputs": _written(functools.partial(product, dtype=jnp.bfloat16)),
    "bare product, int8 inputs": _written(functools.partial(product, dtype=jnp.int8, result=jnp.int32)),
    "`jax.nn.softplus`, [n, B], summed over columns": _summed(jax.nn.softplus, False),
    "`jax.nn.softplus`, [B, n], summed along rows": _summed(jax.nn.softplus, True),
    "`max(z, log1p(exp(min(z, 80))))`, [n, B]": _summed(softplus, False),
    "`max(z, log1p(exp(min(z, 80))))`, [B, n] (**ours**)": _summed(softplus, True),
    "the same in blocks of 2,048 candidates": _blocked,
    "exp alone, [B, n]": _summed(jnp.exp, True),
    "nothing between product and sum, [B, n]": _summed(lambda z: z, True),
}


def time_forms(candidates: int, width: int, repeats: int) -> list[dict[str, Any]]:
    """Times every form, in turns."""
    count = SelectionConfig().subbatch_size(candidates) // SelectionConfig().chunks
    _, learner, _ = selection.inputs(candidates, width)
    programs, temporaries = {}, {}
    for name, form in FORMS.items():

        def chunks(image, text, form=form):
            def add(i, total):
                return total + form(lax.dynamic_slice_in_dim(image, i * count, count), text)

            return lax.fori_loop(0, _CHUNKS, add, jnp.zeros(candidates))

        program = jax.jit(chunks).lower(learner.image, learner.text).compile()
        memory = program.memory_analysis()
        temporaries[name] = memory.temp_size_in_bytes if memory else 0
        programs[name] = functools.partial(
            lambda program: jax.block_until_ready(program(learner.image, learner.text)), program
        )
    seconds = selection.take_turns(programs, repeats)
    bare = seconds[next(iter(FORMS))]
    return [
        {
            "form": name,
            "seconds": statistics.median(taken) / _CHUNKS,
            "ratio": statistics.median(t / b for t, b in zip(taken, bare, strict=True)),
            "temporaries": temporaries[name],
        }
        for name, taken in seconds.items()
    ]


def near_the_cut(candidates: int, width: int) -> list[dict[str, float]]:
    """How many candidates lie within ε below a chunk's cut, as a multiple of the chunk: what a bound would leave.

    A bound that is off by ε on either side leaves those within 2ε to be computed exactly.
    """
    (key, learner, reference), config = selection.inputs(candidates, width), SelectionConfig()
    # The first chunk's logits are the pairs' own, and later ones differ from them by little: enough for a count.
    own, _, _ = pair_scores(learner, reference, config)
    count = config.subbatch_size(candidates) // config.chunks
    noise = jax.random.gumbel(jax.random.fold_in(key, 0), (candidates,))
    perturbed = np.sort(np.asarray(own + noise))[::-1]
    cut = perturbed[count - 1]
    return [
        {"within": within, "candidates_per_pick": float((perturbed > cut - within).sum() / count)}
        for within in (0.01, 0.1, 0.5, 1.0, 2.0)
    ]


def main(options: Options) -> None:
    """Measures, keeps the figures, and writes the page anew."""
    result = {
        "machine": selection.machine(),
        "candidates": options.candidates,
        "width": options.width,
        "rows": time_forms(options.candidates, options.width, options.repeats),
        "near_the_cut": near_the_cut(options.candidates, options.width),
    }
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"chunk-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
