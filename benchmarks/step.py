"""What a training step costs: JEST and Flexi-JEST against a uniform step on the same sub-batch, in one process.

    python -m benchmarks.step --name=cpu

Enters: random pictures and tokens, since neither time nor operations depend on them. Leaves:
`benchmarks/results/step-NAME.json` and its place in docs/performance.md. The forms take turns on one learner:

* `uniform`: `trainer.step.learn_step`, an update from b examples;
* `jest`: `trainer.step.distill_step` on B = b / (1 − f) candidates with cached reference embeddings;
* `jest, online`: the same, after a second set of parameters has embedded the same candidates in the same batches;
* `flexi-jest`: as `jest`, in Flexi-JEST's patches.

Times are medians, ratios are medians over turns. Every program has run before it is timed. Operations are counted by
the paper's accounting (`trainer.flops.step`) and by XLA's analysis (`trainer.flops.measured_step`); for `online` one
more scoring of the super-batch is added to both. The parts of a step are timed as programs of their own.
"""

import functools
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import performance_page, selection
from trainer import flops, loop, presets, step
from trainer.config import DistillConfig, Dtype, TrainConfig
from trainer.model import Architecture, embed_pairs
from trainer.parallel import Layout
from trainer.selection import PairEmbeddings, select

_PAPERS_RATIOS = {"jest": (2.33, 2.67), "flexi-jest": (1.10, 1.10)}  # FLOPs of a step over a uniform one's, f = 0.8
_PAPERS_MODEL = {"preset": "B/16", "resolution": 256, "batch_size": 128}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: str = "cpu"  # of the machine, in the result file's name
    preset: str = "tiny"
    resolution: int = 64  # pixels a side
    batch_size: int = 128  # the sub-batch b
    dtype: Dtype = "auto"  # of the towers; auto is bfloat16 on accelerators and float32 on CPUs
    repeats: int = 9


FORMS = ("uniform", "jest", "jest, online", "flexi-jest")


def config_of(form: str, preset: str, resolution: int, batch_size: int, dtype: Dtype = "auto") -> TrainConfig:
    """The settings that `superbatch train` or `distill` would have."""
    shared: dict[str, Any] = {
        "corpus": "none", "workdir": "none", "preset": preset, "resolution": resolution, "batch_size": batch_size,
        "block_size": batch_size, "dtype": dtype,
    }  # fmt: skip
    if form == "uniform":
        return TrainConfig(**shared)
    return DistillConfig(**shared, embeddings="none", flexi=form == "flexi-jest")


def architecture_of(preset: str, resolution: int) -> Architecture:
    """The preset's towers, with a tokenizer of its own size."""
    return Architecture(preset, resolution, presets.get(preset).vocabulary)


def program_of(config: TrainConfig, architecture: Architecture) -> step.Program:
    """The static part of the step, as the loop makes it."""
    graph, _ = architecture.shapes()
    return loop.program_of(config, graph, Layout())


# --- Operations -------------------------------------------------------------------------------------------------------


def operations(form: str, config: TrainConfig, architecture: Architecture) -> dict[str, int]:
    """The operations of one step: `counted` by the paper's accounting, `measured` by XLA's; nothing is run."""
    program, width = program_of(config, architecture), presets.get(architecture.preset).embedding
    counted = flops.step(config, architecture)
    measured = flops.measured_step(config, program, architecture, width)
    if form == "jest, online":
        preset, candidates = presets.get(architecture.preset), config.superbatch_size
        counted += flops.forward(preset, architecture.resolution, preset.text_length) * candidates
        batch = min(program.scoring.batch, candidates)
        _, parameters = architecture.shapes()
        images, tokens = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in examples(batch, architecture))
        lowered = embed_pairs.lower(program.graph, parameters, images, tokens, program.scoring.patch, program.dtype)
        measured += round(flops._flops(lowered) * candidates / batch)
    return {"counted": counted, "measured": measured}


def accounts(preset: str, resolution: int, batch_size: int, dtype: Dtype = "auto") -> dict[str, Any]:
    """Every form's operations and their ratio to the uniform step's, beside the paper's."""
    architecture = architecture_of(preset, resolution)
    counts = {
        form: operations(form, config_of(form, preset, resolution, batch_size, dtype), architecture) for form in FORMS
    }
    rows = [
        {
            "form": form,
            **count,
            "counted_ratio": count["counted"] / counts["uniform"]["counted"],
            "measured_ratio": count["measured"] / counts["uniform"]["measured"],
            "measured_over_counted": count["measured"] / count["counted"],
            "paper": _PAPERS_RATIOS.get(form),
        }
        for form, count in counts.items()
    ]
    length = presets.get(preset).text_length
    return {"preset": preset, "resolution": resolution, "text_length": length, "batch_size": batch_size, "rows": rows}


# --- Time -------------------------------------------------------------------------------------------------------------


class Learner:
    """One learner that all forms train in turn: a step takes its state and leaves the next."""

    def __init__(self, architecture: Architecture, config: TrainConfig):
        _, parameters = architecture.build(seed=0)
        self.state = jax.block_until_ready(step.initial_state(parameters, config.optimisation))

    def run(self, form: Callable[[step.TrainState], tuple]) -> None:
        """Makes one step, and waits for it."""
        self.state, *_ = jax.block_until_ready(form(self.state))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def online_step(program: step.Program, state: step.TrainState, reference: Any, key: jax.Array, given: step.Candidates):
    """A JEST step that embeds its candidates by the reference too, as it does by the learner."""
    scored = given._replace(reference=step.score(program, reference, given))
    return step.distill_step(program, state, key, scored)


def examples(count: int, architecture: Architecture) -> tuple[np.ndarray, np.ndarray]:
    """Random images and tokens."""
    rng, side = np.random.default_rng(0), architecture.resolution
    length = presets.get(architecture.preset).text_length
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    return images, rng.integers(0, architecture.vocabulary, (count, length), np.int32)


def candidates_of(count: int, architecture: Architecture) -> step.Candidates:
    """A super-batch of random examples, with random embeddings of a reference."""
    _, _, reference = selection.inputs(count, presets.get(architecture.preset).embedding)
    images, tokens = map(jnp.asarray, examples(count, architecture))
    uid, valid = jnp.zeros((count, 16), jnp.uint8), jnp.ones(count, bool)
    return jax.block_until_ready(step.Candidates(images, tokens, uid, valid, reference))


def forms(options: Options) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Whole steps by form, and their parts by "form: part", ready to run."""
    architecture = architecture_of(options.preset, options.resolution)
    configs = {
        form: config_of(form, options.preset, options.resolution, options.batch_size, options.dtype) for form in FORMS
    }
    programs = {form: program_of(config, architecture) for form, config in configs.items()}
    learner, key = Learner(architecture, configs["uniform"]), jax.random.key(0)
    candidates = candidates_of(configs["jest"].superbatch_size, architecture)
    _, reference = architecture.build(seed=1)

    def part(begin: int, end: int) -> step.Part:
        return jax.block_until_ready(step.Part(candidates.image[begin:end], candidates.tokens[begin:end]))

    b = options.batch_size
    sub_batches = {"jest": [part(0, b)], "flexi-jest": [part(0, (b + 1) // 2), part((b + 1) // 2, b)]}
    whole = {
        "uniform": lambda p, s: step.learn_step(p, s, sub_batches["jest"]),
        "jest": lambda p, s: step.distill_step(p, s, key, candidates),
        "jest, online": lambda p, s: online_step(p, s, reference, key, candidates),
        "flexi-jest": lambda p, s: step.distill_step(p, s, key, candidates),
    }
    steps = {form: functools.partial(learner.run, functools.partial(whole[form], programs[form])) for form in FORMS}
    score, draw = jax.jit(step.score, static_argnums=0), jax.jit(select, static_argnums=3)
    parts: dict[str, Callable[[], Any]] = {}
    for form, sub_batch in sub_batches.items():
        program = programs[form]
        own: PairEmbeddings = score(program, learner.state.parameters, candidates)

        def scoring(program=program):
            return jax.block_until_ready(score(program, learner.state.parameters, candidates))

        def selecting(program=program, own=own):
            picks = draw(key, own, candidates.reference, program.selection, valid=candidates.valid)
            return jax.block_until_ready(picks)

        update = functools.partial(lambda p, parts, s: step.learn_step(p, s, parts), program, sub_batch)
        parts |= {f"{form}: score": scoring, f"{form}: select": selecting}
        parts[f"{form}: update"] = functools.partial(learner.run, update)
    return steps, parts


def median_ratio(over: Iterable[float], under: Iterable[float]) -> float:
    """The median over turns of one form's time by another's."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def measure(options: Options) -> dict[str, Any]:
    """Times all forms and all parts in turns, and counts their operations."""
    counted = accounts(options.preset, options.resolution, options.batch_size, options.dtype)
    steps, parts = forms(options)
    for program in (steps | parts).values():
        program()  # compiles
    seconds = selection.take_turns(steps | parts, options.repeats)
    rows = [
        {
            "form": form,
            "seconds": statistics.median(seconds[form]),
            "ratio": median_ratio(seconds[form], seconds["uniform"]),
            "examples_per_second": options.batch_size / statistics.median(seconds[form]),
        }
        for form in FORMS
    ]
    phases = [
        {
            "form": form,
            "part": part,
            "seconds": statistics.median(seconds[name]),
            "share": median_ratio(seconds[name], seconds[form]),
        }
        for name in parts
        for form, part in [name.split(": ")]
    ]
    config = config_of("jest", options.preset, options.resolution, options.batch_size, options.dtype)
    return {
        "machine": selection.machine(),
        "dtype": program_of(config, architecture_of(options.preset, options.resolution)).dtype,
        "superbatch_size": config.superbatch_size,
        "scoring_batch": DistillConfig.scoring_batch,
        "rows": rows,
        "phases": phases,
        "online_over_cached": median_ratio(seconds["jest, online"], seconds["jest"]),
        "flexi_over_jest": median_ratio(seconds["flexi-jest"], seconds["jest"]),
        "accounts": [counted, accounts(**_PAPERS_MODEL, dtype=options.dtype)],
    }


def main(options: Options) -> None:
    """Measures, keeps the figures, and writes the page anew."""
    result = measure(options)
    print(json.dumps(result, indent=1))
    (performance_page.RESULTS / f"step-{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    performance_page.write()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
