"""What `superbatch curate` writes: which datasets, which rows of the corpus each takes, and in which shards.

Enters: the job's settings and its inputs' manifests. Leaves: for each dataset an `Output`, the `ShardPlan`s by which
workers write it, and the rows that it passes over because they resemble others. All of it is computed where the job is
started, from the log of picks and the corpus's uids.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from beam_pipelines import job, policies, progress, similar
from beam_pipelines.curate_config import Control, ControlConfig, CurateConfig
from schemas import job_config, records, rejections, selections, shards, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.identity import keyed_order, shard_of
from schemas.rejections import Reason

CONTROLS: tuple[Control, ...] = ("uniform", "top_reference")
STAGE = "curate"
_READ_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the job reads, with the manifests that say what it is."""

    corpus: manifests.Manifest
    log_directory: str
    log: manifests.Manifest
    embeddings: str | None
    """only where they are needed: for top_reference/, and to find what is alike"""
    parents: dict[str, manifests.Parent]


@dataclass(frozen=True, kw_only=True)
class Output:
    """One dataset to write: where, and what its manifest says."""

    label: str
    directory: str
    name: str
    version: str
    config: CurateConfig | ControlConfig
    parents: list[manifests.Parent]
    dataset: manifests.DatasetInfo
    rows: int
    shards: int

    def finished(self) -> manifests.Manifest | None:
        """Its manifest, if this very dataset is complete. Raises ConfigError if another one is there."""
        return job.finished(self.directory, "corpus", self.config, self._identity, self.parents)

    def claim(self) -> manifests.Manifest | None:
        """Marks the directory; see `job.claim`."""
        return job.claim(self.directory, "corpus", self.config, self._identity, self.parents)

    @property
    def _identity(self) -> list[str]:
        return ["name", *job_config.content_fields(self.config)]


@dataclass(frozen=True)
class ShardPlan:
    """The rows of one output shard in their order, and for curated ones their selection fields."""

    index: int
    rows: list[int]
    uids: list[str]
    selected: list[records.Selection] | None


@dataclass(frozen=True)
class Plan:
    """How one dataset is written."""

    output: Output
    shards: list[ShardPlan]
    rejected: dict[Reason, int]  # why the rest of the corpus is not in it
    alike: list[similar.Passed]


def read_inputs(config: CurateConfig) -> Inputs:
    """Reads the manifests of what the job reads, and checks that they belong together.

    Raises:
      IntegrityError: selections or embeddings of another corpus.
      DataError: the evaluation is not embedded, or by another reference.
    """
    corpus = manifests.read(config.corpus, kind="corpus")
    directory = selections.resolve(config.selections)
    log = manifests.read(directory, kind="selections")
    if log.parent("corpus").fingerprint != corpus.fingerprint:
        raise IntegrityError(
            f"{directory} picked from corpus {log.parent('corpus').fingerprint}, and {config.corpus} is corpus "
            f"{corpus.fingerprint}: name the corpus that was distilled"
        )
    parents = {
        "corpus": manifests.as_parent("corpus", config.corpus, corpus),
        "selections": manifests.as_parent("selections", directory, log),
    }
    path = None
    if config.control is not None or config.looks_for_alike:
        path = config.embeddings or log.parent("embeddings").path
        embeddings = manifests.read(path, kind="embeddings")
        parents["embeddings"] = manifests.as_parent("embeddings", path, embeddings)
        if embeddings.fingerprint != log.parent("embeddings").fingerprint:
            raise IntegrityError(
                f"{path} is {embeddings.fingerprint}, and the selections were made with embeddings "
                f"{log.parent('embeddings').fingerprint}: give the right ones with --embeddings"
            )
        if config.decontaminate is not None:
            parents["evaluation"] = _evaluation(config.decontaminate, path, embeddings)
    return Inputs(corpus=corpus, log_directory=directory, log=log, embeddings=path, parents=parents)


def _evaluation(directory: str, path: str, embeddings: manifests.Manifest) -> manifests.Parent:
    evaluation = manifests.read(directory)
    if evaluation.kind == "corpus":
        raise ConfigError(
            f"decontaminate is {directory}, a corpus: embed it first, with the reference of {path} "
            f"({embeddings.parent('reference').path}), and name those embeddings"
        )
    if evaluation.kind != "embeddings" or evaluation.embeddings is None or embeddings.embeddings is None:
        raise ConfigError(f"decontaminate is {directory}, which holds {evaluation.kind}; it must be embeddings")
    theirs, ours = (info.reference.fingerprint for info in (evaluation.embeddings, embeddings.embeddings))
    if theirs != ours:
        raise DataError(
            f"{directory} was embedded by reference {theirs}, and {path} by {ours}: embed the evaluation with "
            "the latter, else the two cannot be compared"
        )
    return manifests.as_parent("evaluation", directory, evaluation)


def list_outputs(config: CurateConfig, inputs: Inputs) -> list[Output]:
    """The datasets that the job makes: the curated one, and its controls."""
    rows = config.rows_of(inputs.corpus.rows)
    alike = ["embeddings"] * config.looks_for_alike + ["evaluation"] * (config.decontaminate is not None)
    curated = Output(
        label="curated", directory=config.output, name=config.name, version=config.version, config=config,
        parents=_of_roles(inputs, ["corpus", "selections", *alike]),
        dataset=manifests.DatasetInfo(name=config.name, split="train"), rows=rows, shards=config.shards,
    )  # fmt: skip
    if config.control is None:
        return [curated]
    roles: dict[str, list[str]] = {"uniform": ["corpus", *alike], "top_reference": ["corpus", "embeddings", *alike]}
    return [curated] + [
        replace(
            curated,
            label=f"{control} control",
            directory=str(storage.as_path(config.control) / control),
            name=f"{config.name}_{control}",
            config=config.of_control(control, rows),
            parents=_of_roles(inputs, roles[control]),
            dataset=manifests.DatasetInfo(name=f"{config.name}_{control}", split="train"),
        )
        for control in CONTROLS
    ]


def _of_roles(inputs: Inputs, roles: list[str]) -> list[manifests.Parent]:
    return [inputs.parents[role] for role in dict.fromkeys(roles)]


def plan(outputs: list[Output], config: CurateConfig, inputs: Inputs) -> Iterator[Plan]:
    """Chooses the rows of datasets and lays them out in shards.

    Raises:
      DataError: there are fewer rows to choose from than the budget asks for.
      ConfigError: a shard would be empty.
    """
    embeddings = bounds = None
    if config.looks_for_alike and inputs.embeddings is not None:
        embeddings = similar.ImageEmbeddings(inputs.embeddings)
        evaluation = None
        if config.decontaminate is not None:
            evaluation = similar.read_index(similar.ImageEmbeddings(config.decontaminate))
        bounds = similar.Bounds(
            evaluation=evaluation,
            contaminated=config.contaminated_similarity,
            near_duplicate=config.near_duplicates,
        )
    for output in outputs:
        ranked = _rank(output, config, inputs)
        if ranked.num_rows < output.rows:
            raise DataError(_too_few(output, ranked.num_rows))
        if embeddings is None or bounds is None:
            chosen, alike = ranked.slice(0, output.rows), []
        else:
            tracked = progress.of(f"{STAGE} {output.label}: alike", output.directory, "dataset", 1, ranked.num_rows)
            chosen, alike = similar.take(ranked, output.rows, embeddings, bounds, tracked)
        rejected = Counter(row.reason for row in alike)
        rejected[Reason.NOT_PICKED] = inputs.corpus.rows - ranked.num_rows
        rejected[Reason.OVER_BUDGET] = ranked.num_rows - output.rows - len(alike)
        counted = {reason: rows for reason, rows in rejected.items() if rows}
        yield Plan(output, lay_out(chosen, output.shards, config.seed), counted, alike)


def _too_few(output: Output, rows: int) -> str:
    if isinstance(output.config, CurateConfig):
        why = "distinct rows were picked: lower the budget, or distill for more steps"
    else:
        why = "rows have valid embeddings: lower the budget"
    return f"budget is {output.rows} rows and {rows} {why}"


def _rank(output: Output, config: CurateConfig, inputs: Inputs) -> pa.Table:
    """All rows that a dataset may take, best first: `row`, `uid`, and for curated ones what is known of their picks."""
    if isinstance(output.config, CurateConfig):
        offers = policies.count_offers(
            selections.read_superbatches(inputs.log_directory), inputs.log.config["block_size"], inputs.corpus.rows
        )
        return policies.rank(policies.aggregate(selections.read_picks(inputs.log_directory), offers), config.policy)
    uids = _uids(config.corpus, inputs.corpus)
    if output.config.control == "uniform":
        # A key of its own: the corpus is already in the order of keyed_order(uid, seed).
        rows = np.argsort([keyed_order(f"uniform {uid}", config.seed) for uid in uids], kind="stable")
    else:
        rows = top_reference_rows(inputs.parents["embeddings"].path)
    return pa.table({"row": rows.astype(np.int64), "uid": [uids[row] for row in rows]})


def top_reference_rows(directory: str) -> np.ndarray:
    """Returns the rows of valid embeddings in the order in which the reference finds image and text alike, best first.

    The reference's own term −ℓ*_jj grows with x*_j·y*_j, so the order is that of `easy_reference`. Ties go to the lower
    row.
    """
    manifest = manifests.read(directory, kind="embeddings")
    info = manifest.embeddings
    if info is None:
        raise IntegrityError(f"{directory}: the manifest of embeddings lacks its `embeddings` section")
    reader = shards.open_dataset(directory, manifest)
    alike = np.full(len(reader), -np.inf)
    for first in range(0, len(reader), _READ_ROWS):
        piece = range(first, min(first + _READ_ROWS, len(reader)))
        stored = [records.decode_embedding(row) for row in reader.read(piece)]
        image = records.unpack_vectors([e.image_embedding for e in stored], info.dtype, info.image_width)
        text = records.unpack_vectors([e.text_embedding for e in stored], info.dtype, info.text_width)
        alike[first : first + len(stored)] = np.where([e.valid for e in stored], (image * text).sum(-1), -np.inf)
    return np.argsort(-alike, kind="stable")[: np.isfinite(alike).sum()]


def lay_out(chosen: pa.Table, count: int, seed: int) -> list[ShardPlan]:
    """Distributes chosen rows over shards, shuffled by a keyed hash of their uids.

    Raises:
      ConfigError: a shard would be empty.
    """
    rows = sorted(chosen.to_pylist(), key=lambda row: (keyed_order(row["uid"], seed), row["uid"]))
    plans = []
    for index in range(count):
        mine = [row for row in rows if shard_of(keyed_order(row["uid"], seed), count) == index]
        if not mine:
            raise ConfigError(
                f"--shards is {count}, and shard {index} would be empty: {len(rows)} rows are too few for so many"
            )
        selected = None
        if "visits" in chosen.column_names:
            selected = [
                records.Selection(
                    visits=row["visits"],
                    first_step=row["first_step"],
                    last_step=row["last_step"],
                    learnability=row["learnability"],
                )
                for row in mine
            ]
        plans.append(ShardPlan(index, [row["row"] for row in mine], [row["uid"] for row in mine], selected))
    return plans


def list_alike(plan: Plan, corpus: manifests.Manifest, evaluation: str | None) -> list[rejections.Rejection]:
    """The rejections of the rows that resemble others: the shard and row that each stands in, and what it resembles."""
    starts = np.cumsum([0, *(shard.rows for shard in corpus.shards)])
    found = []
    for passed in plan.alike:
        shard = int(np.searchsorted(starts, passed.row, side="right")) - 1
        where = f" of {evaluation}" if passed.reason == Reason.CONTAMINATED else ""
        found.append(
            rejections.Rejection(
                source=f"{corpus.shards[shard].name}@{passed.row - starts[shard]}",
                stage=STAGE,
                reason=passed.reason,
                detail=f"{passed.uid}: cosine {passed.cosine:.4f} to {passed.other}{where}",
            )
        )
    return found


def _uids(directory: str, corpus: manifests.Manifest) -> list[str]:
    root = storage.as_path(directory)
    return [
        records.record_uid(row) for shard in corpus.shards for row in shards.read_all(root / shard.name, shard.rows)
    ]
