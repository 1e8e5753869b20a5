"""Which rows of the corpus a dataset takes: chosen in one step of the graph, and handed on in files.

    curated        log of picks ─ rank (policies) ─► pass over what quotas or similar rows leave no room for ─► first N
    controls       shards of embeddings ─ a key for each row ─► the same from there on
    with quotas    shards of the corpus ─ the group of each row ─► joined to either

Leaves in the output's working folder `chosen-*.parquet` (the rows of each shard, in its order), `alike-*.parquet`
(which were passed over) and, committed last, `chosen.json`: a later attempt takes them up. A row's shard and place
depend on its uid and the seed alone. Nothing here holds all rows in memory, but for what `similar` compares with.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines import job, policies, progress, quotas, similar
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.curate_plan import STAGE, Inputs, Output
from schemas import manifest as manifests
from schemas import records, rejections, selections, shards, storage
from schemas.errors import ConfigError, DataError
from schemas.identity import keyed_order, shard_of
from schemas.rejections import Reason

_READ_ROWS = 256
_GROUPS = pa.schema({"row": pa.int64(), "quota": pa.string()})
_SELECTION = [field.name for field in fields(records.Selection)]


@dataclass(frozen=True)
class ChosenRow:
    """A row of the corpus that goes into a dataset; of a curated one, with what is known of its picks."""

    row: int
    uid: str
    selection: records.Selection | None


@dataclass(frozen=True)
class Choice:
    """What became of the rows of the corpus that a dataset does not take."""

    alike: int  # files of rows that were passed over
    rejected: dict[str, int]


def score_shard(output: Output, inputs: Inputs, index: int) -> str:
    """Writes a key for every row of one shard of embeddings, by which a control ranks them; returns the file's name.

    Keys of the uniform control are a keyed hash of the uid, of its own: the corpus is already in the order of
    `keyed_order(uid, seed)`. Those of the top-reference control are −x*_j·y*_j: the reference's own term −ℓ*_jj grows
    with that product, so the order is that of `easy_reference`. Rows that could not be embedded have none.
    """
    path = _folder(output) / f"keys-{index:05d}.parquet"
    if path.exists():
        return path.name
    embeddings = _embeddings(inputs)
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
    _write(path, pa.table(columns, schema=pa.schema({"row": pa.int64(), "uid": pa.string(), "key": kind})))
    return path.name


def group_shard(output: Output, inputs: Inputs, index: int) -> str:
    """Writes the quota's group of every row of one shard of the corpus; returns the file's name."""
    path = _folder(output) / f"groups-{index:05d}.parquet"
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
    _write(path, pa.table({"row": range(first, first + shard.rows), "quota": found}, schema=_GROUPS))
    return path.name


def choose(output: Output, config: CurateConfig, inputs: Inputs, keys: list[str], groups: list[str]) -> Choice:
    """Chooses the rows of a dataset and lays them out in shards, or takes up what an earlier attempt chose.

    Args:
      output: the dataset.
      config: of the job.
      inputs: what it reads.
      keys: of a control, the files that `score_shard` wrote.
      groups: with quotas, the files that `group_shard` wrote.

    Raises:
      DataError: there are fewer rows to choose from than the budget asks for.
      ConfigError: a shard would be empty.
    """
    done = _folder(output) / "chosen.json"
    if done.exists():
        return read_choice(output)
    of_quotas = _scan([_folder(output) / name for name in sorted(groups)]) if groups else None
    with policies.database() as connection:
        if output.control is None:
            picks, offered = (scan(inputs.selections) for scan in (selections.scan_picks, selections.scan_superbatches))
            ranking = policies.rank(connection, picks, offered, inputs.block_size, config.policy, of_quotas)
        else:
            connection.register("keys", _scan([_folder(output) / name for name in sorted(keys)]))
            connection.execute("CREATE TABLE ranked AS SELECT * FROM keys")
            ranking = policies.ranking(connection, "ranked", "key, row", of_quotas)
        if ranking.rows < output.rows:
            raise DataError(_too_few(output, ranking.rows))
        beside = connection.cursor()  # the ranking is still being read
        choice = _take(output, config, inputs, ranking, beside)
        _lay_out(output, beside)
    storage.write_once(done, json.dumps(asdict(choice)).encode())
    return choice


def read_choice(output: Output) -> Choice:
    """What `choose` left."""
    return Choice(**json.loads(storage.read_bytes(_folder(output) / "chosen.json")))


def read_shard(output: Output, shard: int) -> list[ChosenRow]:
    """The rows of one shard, in its order."""
    [table] = _tables([_chosen(output, shard)])
    if output.control is not None:
        return [ChosenRow(row["row"], row["uid"], None) for row in table.to_pylist()]
    known = [name for name in _SELECTION if name in table.column_names]
    return [
        ChosenRow(row["row"], row["uid"], records.Selection(**{name: row[name] for name in known}))
        for row in table.to_pylist()
    ]


def alike_files(output: Output, choice: Choice) -> dict[str, bytes]:
    """The files of rows that were passed over because they resemble others, by the names they get in the artifact."""
    names = [f"alike-{index:05d}.parquet" for index in range(choice.alike)]
    return {f"{rejections.DIRECTORY}/{name}": storage.read_bytes(_folder(output) / name) for name in names}


def _take(
    output: Output, config: CurateConfig, inputs: Inputs, ranking: policies.Ranking, beside: duckdb.DuckDBPyConnection
) -> Choice:
    """Takes rows until the budget is full: into a table `taken`, with their place. Lists those that are passed over.

    Raises:
      DataError: too few are left.
    """
    rejected, alike, taken = Counter[str](), 0, 0
    room = quotas.Quotas(output.config.quotas, output.rows)
    for chosen, passed in _cut(output, config, inputs, ranking, room):
        places = [keyed_order(uid, output.config.seed) for uid in chosen["uid"].to_pylist()]
        beside.register("block", chosen.append_column("place", pa.array(places, pa.uint64())))
        beside.execute("CREATE TABLE IF NOT EXISTS taken AS SELECT * FROM block LIMIT 0")
        beside.execute("INSERT INTO taken SELECT * FROM block")
        taken += chosen.num_rows
        if passed:
            rejected.update(str(row.reason) for row in passed)
            listed = _as_rejections(passed, inputs.corpus, config.decontaminate)
            rejections.write(_folder(output) / f"alike-{alike:05d}.parquet", listed)
            alike += 1
    rejected[str(Reason.OVER_QUOTA)] = room.passed
    if taken < output.rows:
        raise DataError(
            f"{output.label}: budget is {output.rows} rows and {taken} are left: "
            f"{rejected[Reason.CONTAMINATED]} resemble the evaluation, {rejected[Reason.NEAR_DUPLICATE]} a row taken "
            f"before, {room.passed} are over their quota. Lower the budget, or raise --contaminated_similarity, "
            "--near_duplicates or --quotas"
        )
    rejected[str(Reason.OVER_BUDGET)] = ranking.rows - output.rows - sum(rejected.values())
    rejected[str(Reason.NOT_PICKED)] = inputs.corpus_rows - ranking.rows
    return Choice(alike, {reason: rows for reason, rows in sorted(rejected.items()) if rows})


def _lay_out(output: Output, connection: duckdb.DuckDBPyConnection) -> None:
    """Writes the rows of the table `taken` into a file for each shard. A shard is a range of places."""
    laid_out = 0
    for shard, pieces in itertools.groupby(_pieces(output, connection), key=lambda piece: piece[0]):
        if shard != laid_out:
            break
        _write(_chosen(output, shard), pa.concat_tables(rows for _, rows in pieces))
        laid_out += 1
    if laid_out < output.shards:
        raise ConfigError(
            f"--shards is {output.shards}, and shard {laid_out} would be empty: {output.rows} rows are too few for so "
            "many"
        )


def _pieces(output: Output, connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, pa.Table]]:
    """Yields the rows of `taken` in the order of their places, a few at a time, with the shard that they belong to."""
    table = policies.weigh(connection, "taken") if output.row_kind == "weighted" else "taken"
    for block in policies.ranking(connection, table, "place, uid").blocks:
        owners = np.array([shard_of(place, output.shards) for place in block["place"].to_pylist()])
        for shard in np.unique(owners).tolist():
            yield shard, block.filter(pa.array(owners == shard))


def _chosen(output: Output, shard: int) -> storage.epath.Path:
    return _folder(output) / f"chosen-{shard:05d}.parquet"


def _cut(
    output: Output, config: CurateConfig, inputs: Inputs, ranking: policies.Ranking, room: quotas.Quotas
) -> Iterator[tuple[pa.Table, list[similar.Passed]]]:
    if config.looks_for_alike:
        tracked = progress.of(f"{STAGE} {output.label}: alike", output.directory, "dataset", 1, ranking.rows)
        embeddings = _embeddings(inputs)
        yield from similar.take(ranking.blocks, output.rows, embeddings, _bounds(config), tracked, room)
        return
    left = output.rows
    for block in ranking.blocks:
        if left <= 0:
            break
        found = _admitted(block, room, left) if config.quotas else block.slice(0, left)
        yield found, []
        left -= found.num_rows


def _admitted(block: pa.Table, room: quotas.Quotas, left: int) -> pa.Table:
    """The first rows of a block that their quotas have room for, `left` at most."""
    places: list[int] = []
    for place, group in enumerate(block["quota"].to_pylist()):
        if len(places) == left:
            break
        if room.admits(group):
            room.take(group)
            places.append(place)
    return block.take(pa.array(places, pa.int64()))


def _as_rejections(passed: list[similar.Passed], corpus: str, evaluation: str | None) -> list[rejections.Rejection]:
    """Names the shard and row in which each stands, and what it resembles."""
    described = manifests.read(corpus, kind="corpus").shards
    starts = np.cumsum([0, *(shard.rows for shard in described)])
    found = []
    for row in passed:
        shard = int(np.searchsorted(starts, row.row, side="right")) - 1
        where = f" of {evaluation}" if row.reason == Reason.CONTAMINATED else ""
        found.append(
            rejections.Rejection(
                source=f"{described[shard].name}@{row.row - starts[shard]}",
                stage=STAGE,
                reason=row.reason,
                detail=f"{row.uid}: cosine {row.cosine:.4f} to {row.other}{where}",
            )
        )
    return found


def _bounds(config: CurateConfig) -> similar.Bounds:
    evaluation = None
    if config.decontaminate is not None:
        evaluation = similar.read_index(similar.Embeddings(config.decontaminate))
    return similar.Bounds(evaluation, config.contaminated_similarity, config.near_duplicates)


def _embeddings(inputs: Inputs) -> similar.Embeddings:
    return similar.Embeddings(inputs.parents["embeddings"].path)


def _too_few(output: Output, rows: int) -> str:
    if output.control is None:
        why = "distinct rows were picked: lower the budget, or distill for more steps"
    else:
        why = "rows have valid embeddings: lower the budget"
    return f"budget is {output.rows} rows and {rows} {why}"


def _folder(output: Output) -> storage.epath.Path:
    return storage.as_path(output.directory) / job.WORK_DIRECTORY


def _write(path: storage.epath.Path, table: pa.Table) -> None:
    """Commits a working file; one already there is an earlier attempt's, with the same rows."""
    with storage.temporary_file(path) as temporary:
        pq.write_table(table, temporary)
        storage.commit(temporary, path)


def _tables(paths: Iterable[storage.epath.Path]) -> Iterator[pa.Table]:
    for path in paths:
        yield pq.read_table(pa.BufferReader(storage.read_bytes(path)))


def _scan(paths: list[storage.epath.Path]) -> pa.RecordBatchReader:
    schema = pq.read_schema(pa.BufferReader(storage.read_bytes(paths[0])))
    return pa.RecordBatchReader.from_batches(schema, (b for table in _tables(paths) for b in table.to_batches()))
