"""What resembles the evaluation or a row before it is passed over: against a plain double loop over float64 cosines."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines import progress, similar
from schemas import records
from schemas.errors import IntegrityError
from schemas.rejections import Reason

WIDTH = 6


@dataclass
class Stored:
    """Image embeddings in memory, read as those of a directory are."""

    uids: list[str]
    vectors: np.ndarray
    directory: str = "/embeddings"

    @property
    def info(self):
        return type("Info", (), {"image_width": self.vectors.shape[1]})

    def __len__(self):
        return len(self.uids)

    def read(self, rows):
        return [
            records.Embedding(
                uid=self.uids[row], valid=True, image_embedding=row.to_bytes(2, "little"), text_embedding=b""
            )
            for row in rows
        ]

    def images(self, stored):
        return self.vectors[[int.from_bytes(row.image_embedding, "little") for row in stored]]


def stored(rng: np.random.Generator, rows: int, name: str, centres: int) -> Stored:
    """Vectors around a few centres, so that many are alike; some are zero, as those of invalid rows."""
    vectors = rng.normal(size=(centres, WIDTH))[rng.integers(0, centres, rows)] + 0.25 * rng.normal(size=(rows, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[rng.random(rows) < 0.05] = 0
    return Stored([f"{name}{row}" for row in range(rows)], vectors.astype(np.float32))


def take(embeddings, order, budget, bounds):
    ranked = pa.table({"row": order, "uid": [embeddings.uids[row] for row in order], "visits": [1] * len(order)})
    blocks = [ranked.slice(first, 50) for first in range(0, len(order), 50)]
    found = list(similar.take(blocks, budget, embeddings, bounds, progress.Progress("curate", "dataset", 1)))
    return pa.concat_tables(table for table, _ in found), [row for _, passed in found for row in passed]


def plainly(embeddings, order, budget, evaluation, contaminated, near):
    """The same by two loops."""
    taken, passed = [], []
    for row in order:
        vector = embeddings.vectors[row].astype(float)
        if len(taken) == budget:
            break
        for others, bound, reason in (
            ((evaluation.vectors, evaluation.uids), contaminated, Reason.CONTAMINATED),
            ((embeddings.vectors[taken], [embeddings.uids[t] for t in taken]), near, Reason.NEAR_DUPLICATE),
        ):
            cosines = others[0].astype(float) @ vector
            if len(cosines) and cosines.max() >= bound:
                passed.append((row, reason, others[1][int(cosines.argmax())]))
                break
        else:
            taken.append(row)
    return taken, passed


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("block", [7, 64, 1024])
def test_rows_are_those_of_a_plain_double_loop(seed, block, monkeypatch):
    monkeypatch.setattr(similar, "_BLOCK", block)
    rng = np.random.default_rng(seed)
    embeddings, evaluation = stored(rng, 300, "r", centres=40), stored(rng, 20, "e", centres=8)
    order = rng.permutation(300).tolist()
    contaminated, near = rng.uniform(0.7, 0.95, 2)
    bounds = similar.Bounds(similar.read_index(evaluation), contaminated, near)
    wanted, passed = plainly(embeddings, order, 40, evaluation, contaminated, near)
    assert {reason for _, reason, _ in passed} == {Reason.CONTAMINATED, Reason.NEAR_DUPLICATE}
    chosen, found = take(embeddings, order, 40, bounds)
    assert chosen["row"].to_pylist() == wanted
    assert [(row.row, row.reason, row.other) for row in found] == passed
    for row in found:
        others = evaluation if row.reason == Reason.CONTAMINATED else embeddings
        cosine = others.vectors[others.uids.index(row.other)].astype(float) @ embeddings.vectors[row.row].astype(float)
        assert row.cosine == pytest.approx(cosine, abs=1e-6)


def test_the_same_image_is_alike_at_a_bound_of_one():
    rng = np.random.default_rng(0)
    embeddings = stored(rng, 3, "r", centres=3)
    embeddings.vectors[2] = embeddings.vectors[0]
    chosen, found = take(embeddings, [0, 1, 2], 2, similar.Bounds(near_duplicate=1.0))
    assert chosen["row"].to_pylist() == [0, 1]
    assert found == []  # the budget was full before it came
    chosen, found = take(embeddings, [0, 1, 2], 3, similar.Bounds(near_duplicate=1.0))
    assert chosen["row"].to_pylist() == [0, 1]
    assert [(row.row, row.reason, row.other) for row in found] == [(2, Reason.NEAR_DUPLICATE, "r0")]


def test_embeddings_of_other_rows_are_refused():
    embeddings = stored(np.random.default_rng(0), 3, "r", centres=3)
    ranked = pa.table({"row": [0, 1], "uid": ["r0", "r2"]})
    with pytest.raises(IntegrityError, match="/embeddings holds embeddings of other examples"):
        list(similar.take([ranked], 2, embeddings, similar.Bounds(near_duplicate=0.9), progress.Progress("c", "d", 1)))
