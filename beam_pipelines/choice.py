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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import duckdb
import numpy as np
import pyarrow as pa

from beam_pipelines import policies, progress, quotas, similar, working_files
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.curate_plan import STAGE, Inputs, Output
from schemas import manifest as manifests
from schemas import records, rejections, selections, storage
from schemas.errors import ConfigError, DataError
from schemas.identity import keyed_order, shard_of
from schemas.rejections import Reason

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


def choose(output: Output, config: CurateConfig, inputs: Inputs, keys: list[str], groups: list[str]) -> Choice:
    """Chooses the rows of a dataset and lays them out in shards, or takes up what an earlier attempt chose.

    Args:
      output: the dataset.
      config: of the job.
      inputs: what it reads.
      keys: of a control, the files that `curate_keys.score_shard` wrote.
      groups: with quotas, the files that `curate_keys.group_shard` wrote.

    Raises:
      DataError: there are fewer rows to choose from than the budget asks for.
      ConfigError: a shard would be empty.
    """
    done = working_files.folder(output) / "chosen.json"
    if done.exists():
        return read_choice(output)
    of_quotas = working_files.scan(output, groups) if groups else None
    with policies.database() as connection:
        if output.control is None:
            picks, offered = (scan(inputs.selections) for scan in (selections.scan_picks, selections.scan_superbatches))
            ranking = policies.rank(connection, picks, offered, inputs.block_size, config.policy, of_quotas)
        else:
            connection.register("keys", working_files.scan(output, keys))
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
    return Choice(**json.loads(storage.read_bytes(working_files.folder(output) / "chosen.json")))


def read_shard(output: Output, shard: int) -> list[ChosenRow]:
    """The rows of one shard, in its order."""
    [table] = working_files.read([_chosen(output, shard)])
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
    return {f"{rejections.DIRECTORY}/{name}": storage.read_bytes(working_files.folder(output) / name) for name in names}


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
            rejections.write(working_files.folder(output) / f"alike-{alike:05d}.parquet", listed)
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
        working_files.write(_chosen(output, shard), pa.concat_tables(rows for _, rows in pieces))
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
    return working_files.folder(output) / f"chosen-{shard:05d}.parquet"


def _cut(
    output: Output, config: CurateConfig, inputs: Inputs, ranking: policies.Ranking, room: quotas.Quotas
) -> Iterator[tuple[pa.Table, list[similar.Passed]]]:
    if config.looks_for_alike:
        tracked = progress.of(f"{STAGE} {output.label}: alike", output.directory, "dataset", 1, ranking.rows)
        embeddings = similar.Embeddings(inputs.parents["embeddings"].path)
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


def _too_few(output: Output, rows: int) -> str:
    if output.control is None:
        why = "distinct rows were picked: lower the budget, or distill for more steps"
    else:
        why = "rows have valid embeddings: lower the budget"
    return f"budget is {output.rows} rows and {rows} {why}"
