"""Which datasets `superbatch curate` writes, and of what: decided where the job is started, from manifests alone.

Enters: the job's settings. Leaves: its `Inputs`, checked against each other, and an `Output` for the curated dataset
and for each control. Both go to every worker, so they hold paths and not the manifests, which name every shard.
"""

from dataclasses import dataclass, fields, replace

from beam_pipelines import job
from beam_pipelines.curate_config import Control, ControlConfig, CurateConfig
from beam_pipelines.rights import Rights
from schemas import features, job_config, selections, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, DataError, IntegrityError

CONTROLS: tuple[Control, ...] = ("uniform", "top_reference")
STAGE = "curate"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the job reads."""

    corpus: str
    corpus_rows: int
    corpus_shards: int
    selections: str
    block_size: int
    embedding_shards: int
    """0 where embeddings are not needed: they are for controls, and to find what is alike"""
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

    @property
    def control(self) -> Control | None:
        """Which control sample it is; None for the curated dataset."""
        return self.config.control if isinstance(self.config, ControlConfig) else None

    @property
    def row_kind(self) -> features.RowKind:
        """Which features its rows have."""
        if isinstance(self.config, ControlConfig):
            return "corpus"
        return "weighted" if self.config.policy == "weighted" else "curated"

    def finished(self) -> manifests.Manifest | None:
        """Its manifest, if this very dataset is complete. Raises ConfigError if another one is there."""
        return job.finished(self.directory, "corpus", self.config, self._identity, self.parents)

    def claim(self) -> manifests.Manifest | None:
        """Marks the directory; see `job.claim`."""
        return job.claim(self.directory, "corpus", self.config, self._identity, self.parents)

    def release(self) -> None:
        """Takes the mark away if nothing was written yet: so the job may be started with other settings."""
        if not storage.relative_files(self.directory):
            job.clean_up(self.directory)

    @property
    def _identity(self) -> list[str]:
        return ["name", "version", *job_config.content_fields(self.config), *(field.name for field in fields(Rights))]


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
    embedding_shards = 0
    if config.control is not None or config.looks_for_alike:
        path = config.embeddings or log.parent("embeddings").path
        embeddings = manifests.read(path, kind="embeddings")
        embedding_shards = len(embeddings.shards)
        parents["embeddings"] = manifests.as_parent("embeddings", path, embeddings)
        if embeddings.fingerprint != log.parent("embeddings").fingerprint:
            raise IntegrityError(
                f"{path} is {embeddings.fingerprint}, and the selections were made with embeddings "
                f"{log.parent('embeddings').fingerprint}: give the right ones with --embeddings"
            )
        if config.decontaminate is not None:
            parents["evaluation"] = _evaluation(config.decontaminate, path, embeddings)
    return Inputs(
        corpus=config.corpus,
        corpus_rows=corpus.rows,
        corpus_shards=len(corpus.shards),
        selections=directory,
        block_size=log.config["block_size"],
        embedding_shards=embedding_shards,
        parents=parents,
    )


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
    _refuse_overlaps(config, inputs)
    rows = config.rows_of(inputs.corpus_rows)
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


def _refuse_overlaps(config: CurateConfig, inputs: Inputs) -> None:
    outputs = {"output": config.output}
    if config.control is not None:
        outputs |= {f"control's {name}/": str(storage.as_path(config.control) / name) for name in CONTROLS}
    reads = {role: parent.path for role, parent in inputs.parents.items()}
    for field, path in outputs.items():
        job.refuse_overlap(field, path, reads | {name: other for name, other in outputs.items() if name != field})


def _of_roles(inputs: Inputs, roles: list[str]) -> list[manifests.Parent]:
    return [inputs.parents[role] for role in dict.fromkeys(roles)]
