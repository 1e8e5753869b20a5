"""What `curate` learns of every row before it chooses, a shard at a time: a control's ranking key, a quota's group.

Enters: a shard of the embeddings or of the corpus. Leaves: a working file with a line for each of its rows.
"""

import pyarrow as pa

from beam_pipelines import quotas, similar, working_files
from beam_pipelines.curate_plan import Inputs, Output
from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.identity import keyed_order

_READ_ROWS = 256
_GROUPS = pa.schema({"row": pa.int64(), "quota": pa.string()})


def score_shard(output: Output, inputs: Inputs, index: int) -> str:
    """Writes a key for every row of one shard of embeddings, by which a control ranks them; returns the file's name.

    Keys of the uniform control are a keyed hash of the uid, of its own: the corpus is already in the order of
    `keyed_order(uid, seed)`. Those of the top-reference control are −x*_j·y*_j: the reference's own term −ℓ*_jj grows
    with that product, so the order is that of `easy_reference`. Rows that could not be embedded have none.
    """
    path = working_files.folder(output) / f"keys-{index:05d}.parquet"
    if path.exists():
        return path.name
    embeddings = similar.Embeddings(inputs.parents["embeddings"].path)
    described = embeddings.manifest.shards
    first = sum(shard.rows for shard in described[:index])
    columns: dict[str, list[object]] = {"row": [], "uid": [], "key": []}
    for start in range(first, first + described[index].rows, _READ_ROWS):
        rows = range(start, min(start + _READ_ROWS, first + described[index].rows))
        stored = embeddings.read(rows)
        uids = [row.uid for row in stored]
        if output.control == "uniform":
            keys: list[object] = [keyed_order(f"uniform {uid}", output.config.seed) for uid in uids]
            wanted = range(len(stored))
        else:
            keys = (-(embeddings.images(stored) * embeddings.texts(stored)).sum(-1)).tolist()
            wanted = [place for place, row in enumerate(stored) if row.valid]
        for name, values in (("row", rows), ("uid", uids), ("key", keys)):
            columns[name] += [values[place] for place in wanted]
    kind = pa.uint64() if output.control == "uniform" else pa.float64()
    working_files.write(path, pa.table(columns, schema=pa.schema({"row": pa.int64(), "uid": pa.string(), "key": kind})))
    return path.name


def group_shard(output: Output, inputs: Inputs, index: int) -> str:
    """Writes the quota's group of every row of one shard of the corpus; returns the file's name."""
    path = working_files.folder(output) / f"groups-{index:05d}.parquet"
    if path.exists():
        return path.name
    by, shares = output.config.quota_by, output.config.quotas
    assert by is not None  # checked with the settings
    described = manifests.read(inputs.corpus, kind="corpus").shards
    first, shard = sum(shard.rows for shard in described[:index]), described[index]
    examples = (
        records.decode_example(row) for row in shards.read_all(storage.as_path(inputs.corpus) / shard.name, shard.rows)
    )
    found = [quotas.group(by, shares, getattr(example, by)) for example in examples]
    working_files.write(path, pa.table({"row": range(first, first + shard.rows), "quota": found}, schema=_GROUPS))
    return path.name
