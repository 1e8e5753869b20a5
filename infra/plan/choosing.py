"""What choosing costs: the one step of `curate` that a single worker does, timed on a made-up log of picks.

It grows with the picks of the whole run and with the corpus, so it is what a larger cluster does not make shorter. The
very function of the job runs, on files such as it reads.
"""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines import choice, job
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.curate_plan import Inputs, Output
from infra.plan.facts import Choosing
from schemas import manifest as manifests
from schemas import selections, storage
from trainer.config import DistillConfig

_ROWS, _PICKS, _BLOCK, _PER_STEP = 200_000, 100_000, 32, 1000
_FEW, _MANY = 5_000, 50_000  # rows taken
_SCORES = ("learner_nll", "reference_nll", "conditional")


def measure(scratch: Path) -> Choosing:
    """Times the step at two budgets, and a control's by keys."""
    directory = scratch / "picks"
    pick_bytes = _write_log(directory)
    _choose(scratch / "first", directory, _FEW, None)  # DuckDB starts
    few, many = (_choose(scratch / f"curated-{rows}", directory, rows, None) for rows in (_FEW, _MANY))
    keyed = _choose(scratch / "control", directory, _FEW, _keys())
    per_taken = max(many - few, 0.0) / (_MANY - _FEW)
    beside = per_taken * _FEW
    return Choosing(
        per_pick=max(few - beside, 0.0) / _PICKS,
        per_keyed=max(keyed - beside, 0.0) / _ROWS,
        per_taken=per_taken,
        pick_bytes=pick_bytes,
    )


def _choose(directory: Path, log: Path, rows: int, keys: pa.Table | None) -> float:
    """Seconds that it takes."""
    config = CurateConfig(corpus="unset", selections=str(log), output=str(directory), budget=rows, shards=8)
    inputs = Inputs(
        corpus="unset", corpus_rows=_ROWS, corpus_shards=1, selections=str(log), block_size=_BLOCK,
        embedding_shards=1, parents={},
    )  # fmt: skip
    output = Output(
        label="curated", directory=str(directory), name="plan", version="1.0.0",
        config=config if keys is None else config.of_control("uniform", rows),
        parents=[], dataset=manifests.DatasetInfo(name="plan", split="train"), rows=rows, shards=config.shards,
    )  # fmt: skip
    work = directory / job.WORK_DIRECTORY
    work.mkdir(parents=True)
    names = []
    if keys is not None:
        names = ["keys-00000.parquet"]
        pq.write_table(keys, work / names[0])
    begin = time.perf_counter()
    choice.choose(output, config, inputs, names, [])
    return time.perf_counter() - begin


def _uids(count: int) -> list[str]:
    drawn = np.random.default_rng(0).bytes(16 * count)
    return [drawn[16 * row : 16 * (row + 1)].hex() for row in range(count)]


def _keys() -> pa.Table:
    keys = np.random.default_rng(1).integers(0, 2**63, _ROWS, np.uint64)
    return pa.table({"row": np.arange(_ROWS), "uid": _uids(_ROWS), "key": keys})


def _write_log(directory: Path) -> float:
    """Writes picks of random rows; returns the bytes of one."""
    directory.mkdir(parents=True)
    rng, uids = np.random.default_rng(2), _uids(_ROWS)
    rows = rng.permutation(_ROWS)[:_PICKS]
    last = _PICKS // _PER_STEP - 1
    picks = pa.table(
        {
            "step": np.arange(_PICKS) // _PER_STEP,
            "pick": (np.arange(_PICKS) % _PER_STEP).astype(np.int32),
            "chunk": (np.arange(_PICKS) % _PER_STEP * 16 // _PER_STEP).astype(np.int32),
            "row": rows,
            "uid": [uids[row] for row in rows],
            **{name: rng.normal(size=_PICKS).astype(np.float32) for name in _SCORES},
        },
        schema=selections.PICKS,
    )
    offered = pa.table(
        {
            "step": range(last + 1),
            "blocks": [np.unique(rows[first : first + _PER_STEP] // _BLOCK) for first in range(0, _PICKS, _PER_STEP)],
            "score_quantiles": [np.zeros(len(selections.QUANTILE_LEVELS), np.float32)] * (last + 1),
        },
        schema=selections.SUPERBATCHES,
    )
    parts = []
    for table, content in (("picks", picks), ("superbatches", offered)):
        name = selections.part_name(table, 0, last)
        selections.write_part(storage.as_path(directory) / name, content)
        size, digest = storage.hash_file(directory / name)
        parts.append(manifests.Shard(name=name, rows=content.num_rows, bytes=size, sha256=digest))
    settings = DistillConfig(corpus="unset", workdir="unset", embeddings="unset")
    made = manifests.make(
        kind="selections", name="plan", version="1.0.0", config=settings, parents=[],
        counts=manifests.Counts(read=_PICKS, kept=_PICKS), shards=parts, files=[],
    )  # fmt: skip
    manifests.write(str(directory), made)
    return parts[0].bytes / _PICKS
