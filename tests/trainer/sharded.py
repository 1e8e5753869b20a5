"""One process of a sharded selection: `python -m tests.trainer.sharded OUTPUT DEVICES PROCESS PROCESSES PORT`.

Fake devices and `jax.distributed` must be set up before JAX starts, so the tests run this in processes of its own. Each
selects for every case with a mesh over all devices of all processes, and writes what it got to OUTPUT.
"""

import json
import os
import re
import sys
from typing import Any, NamedTuple

import numpy as np

from tests.trainer import published


class Case(NamedTuple):
    candidates: int
    config: dict[str, Any]
    x64: bool = True
    axes: tuple[str, ...] = ("data",)


CASES = {
    "learnability": Case(240, {"filter_ratio": 0.8, "chunks": 7}),
    "candidates that devices cannot share equally": Case(203, {"filter_ratio": 0.5, "chunks": 4}),
    "softmax": Case(120, {"filter_ratio": 0.7, "chunks": 5, "loss": "softmax", "criterion": "hard_learner"}),
    "independent": Case(120, {"joint": False, "criterion": "easy_reference", "gain": 2.0}),
    "more picks than a device has candidates": Case(64, {"filter_ratio": 0.25, "chunks": 1}),
    "float32": Case(512, {"filter_ratio": 0.8, "chunks": 4}, x64=False),
    "another axis beside": Case(240, {"filter_ratio": 0.8, "chunks": 7}, axes=("data", "model")),
    "another axis before": Case(240, {"filter_ratio": 0.8, "chunks": 7}, axes=("model", "data")),
    "almost everything, shared unequally": Case(203, {"filter_ratio": 0.15, "chunks": 2}),
    "noise alone, with ties": Case(60_000, {"criterion": "uniform", "chunks": 2}, x64=False),
}


def inputs(case: Case, seed: int):
    """(learner, reference, valid) as NumPy arrays: random unit vectors; every tenth candidate is not valid, and NaN."""
    rng = np.random.default_rng(seed)
    dtype = np.float64 if case.x64 else np.float32
    models = []
    for width, scale, bias in ((16, 12, -7), (24, 8, -6)):
        image, text = (published.unit(rng, case.candidates, width, dtype) for _ in range(2))
        models.append((image, text, np.asarray(scale, dtype), np.asarray(bias, dtype)))
    valid = np.arange(case.candidates) % 10 != 3
    models[0][0][~valid] = np.nan
    return *models, valid


def main(output: str, devices: int, process: int, processes: int, port: int) -> None:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices // processes}"
    import jax

    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=processes, process_id=process)
    from schemas.errors import ConfigError, DataError
    from trainer.selection import PairEmbeddings, SelectionConfig, select

    assert (jax.process_count(), jax.device_count()) == (processes, devices)

    def mesh_of(axes: tuple[str, ...]) -> jax.sharding.Mesh:
        sizes = {"data": devices if len(axes) == 1 else devices // 2, "model": 2}
        return jax.make_mesh(tuple(sizes[axis] for axis in axes), axes)

    def over(mesh, arrays):
        """The arrays as a training loop holds them: each process has its devices' candidates only."""

        def put(array):
            spec = jax.sharding.PartitionSpec(*("data",)[: array.ndim])
            if array.ndim and len(array) % mesh.shape["data"]:
                return array  # cannot lie so: `select` is handed all of it
            return jax.make_array_from_callback(array.shape, jax.NamedSharding(mesh, spec), lambda i: array[i])

        return jax.tree.map(put, arrays)

    results: dict[str, Any] = {}
    for name, case in CASES.items():
        with jax.enable_x64(case.x64):
            mesh, (learner, reference, valid) = mesh_of(case.axes), inputs(case, seed=1)
            learner, reference, valid = over(mesh, (PairEmbeddings(*learner), PairEmbeddings(*reference), valid))
            key = jax.random.key(5)
            picks = select(key, learner, reference, SelectionConfig(**case.config), valid=valid, mesh=mesh)
            results[name] = {field: np.asarray(array).tolist() for field, array in picks._asdict().items()}

    case = CASES["float32"]
    mesh, (learner, reference, valid) = mesh_of(case.axes), inputs(case, seed=1)
    config = SelectionConfig(**case.config)
    shapes = over(mesh, (PairEmbeddings(*learner), PairEmbeddings(*reference), valid))
    program = jax.jit(lambda key, a, b, valid: select(key, a, b, config, valid=valid, mesh=mesh))
    compiled = program.lower(jax.random.key(0), *shapes).compile().as_text()
    results["gathered"], results["summed"] = (_largest(compiled, kind) for kind in ("all-gather", "all-reduce"))
    results["otherwise_sent"] = max(_largest(compiled, kind) for kind in ("all-to-all", "collective-permute"))

    if processes == 1:  # what lies elsewhere is brought to the mesh
        first = jax.device_put((PairEmbeddings(*learner), PairEmbeddings(*reference), valid), jax.devices()[3])
        key = jax.device_put(jax.random.key(5), jax.devices()[2])
        results["brought"] = select(key, *first[:2], config, valid=first[2], mesh=mesh).index.tolist()
        try:
            select(jax.random.key(5), *shapes[:2], config, valid=shapes[2])
        except ConfigError as error:
            results["no mesh"] = str(error)

    learner[0][:] = np.nan_to_num(learner[0])
    reference[0][-1] = np.nan  # on the last device, so not in the first process
    try:
        select(
            jax.random.key(0), *over(mesh, (PairEmbeddings(*learner), PairEmbeddings(*reference))), config, mesh=mesh
        )
    except DataError as error:
        results["refused"] = str(error)
    with open(output, "w") as file:
        json.dump(results, file)


def _largest(program: str, kind: str) -> int:
    """The most elements of an array that results from this kind of communication between devices."""
    sizes = [0]
    for line in program.splitlines():
        if re.search(rf" {kind}(-start)?\(", line):
            result = line.split(" = ")[1].split(f" {kind}")[0]
            sizes += [np.prod([int(n) for n in dims.split(",") if n]) for dims in re.findall(r"\[([\d,]*)\]", result)]
    return int(max(sizes))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
