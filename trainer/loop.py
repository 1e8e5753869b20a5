"""The loop of `superbatch train` and `superbatch distill`: set up or resume, step, log, checkpoint, complete.

Enters: a config. Leaves: a workdir with `checkpoints/`, `metrics.jsonl`, `config.json`, the tokenizer and, from
distill, `selections/`; its manifest is written last.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.errors import ConfigError, DataError, IntegrityError
from trainer import flops, presets, tokenizer
from trainer.checkpoint import CHECKPOINTS, Checkpoints
from trainer.config import DistillConfig, TrainConfig
from trainer.data import BlockLoader, Blocks, CachedReference, Candidates, iterate
from trainer.decode import DECODER
from trainer.metrics import Metrics
from trainer.model import CONFIG_FILE, Architecture, identify
from trainer.selection import PairEmbeddings
from trainer.selections_log import SelectionsLog
from trainer.step import Scored, TrainState, distill_step, initial_state, uniform_step

_TOKENIZER_TEXTS = 50_000
log = logging.getLogger(__name__)


def run(config: TrainConfig) -> manifests.Manifest:
    """Trains to the last step, going on from the newest checkpoint if there is one.

    Returns:
      The manifest of the finished model. If the workdir holds it already, nothing is done.

    Raises:
      ConfigError: the workdir belongs to a run with other settings.
      IntegrityError: corpus, embeddings or reference do not belong together.
      DataError: an input is missing, or training diverged.
    """
    corpus = manifests.read(config.corpus, kind="corpus")
    parents = [manifests.as_parent("corpus", config.corpus, corpus)]
    reference = None
    if isinstance(config, DistillConfig):
        reference = check_embeddings(config, corpus)
        parents.append(manifests.as_parent("embeddings", config.embeddings, reference))
    done = _finished(config, parents)
    if done is not None:
        log.info("%s is complete already: nothing to do", config.workdir)
        return done

    # Everything that can be wrong with the settings is found before the workdir is claimed.
    tokens = _tokenizer(config, corpus, reference)
    resolution = config.resolution or presets.get(config.preset).resolution
    architecture = Architecture(config.preset, resolution, tokens.vocabulary)
    graph, parameters = architecture.build(config.seed)
    per_step = config.superbatch_size // config.block_size
    loader = BlockLoader(
        corpus=shards.open_dataset(config.corpus, corpus),
        blocks=Blocks(corpus.rows, config.block_size, per_step, config.seed, rotate=reference is None),
        tokenizer=tokens,
        resolution=resolution,
        reference=None if reference is None else _cached(config, reference),
    )
    _claim(config, parents, architecture)
    storage.replace(storage.as_path(config.workdir) / tokenizer.FILE_NAME, tokens.model)
    state = _steps(config, architecture, graph, initial_state(parameters, config.optimisation), loader, parents)
    return _complete(config, architecture, state, tokens, parents)


def _steps(
    config: TrainConfig,
    architecture: Architecture,
    graph: Any,
    state: TrainState,
    loader: BlockLoader,
    parents: list[manifests.Parent],
) -> TrainState:
    """Runs every step that is left, and completes the selections."""
    workdir = storage.as_path(config.workdir)
    checkpoints = Checkpoints(str(workdir / CHECKPOINTS))
    selections = None
    if isinstance(config, DistillConfig):
        selections = SelectionsLog(str(workdir / "selections"), config.steps_per_part, config.steps)
    restored = checkpoints.restore(state)
    first = 0
    if restored is not None:
        first, state = restored.step, restored.state
        if selections is not None:
            selections.restore(restored.open_rows)
        log.info("resumed at step %d of %d", first, config.steps)
    metrics = Metrics(config, first, flops.step(config, architecture))
    waiting = iterate(loader, first, config.steps, config.workers)
    try:
        for step in range(first, config.steps):
            with metrics.waiting():
                candidates = next(waiting)
            if isinstance(config, DistillConfig) and selections is not None:
                state, loss, scored = _distill(config, graph, state, loader, candidates, step)
                selections.add(step, candidates, scored)
            else:
                state, loss = uniform_step(graph, config.optimisation, state, candidates["image"], candidates["tokens"])
                scored = None
            metrics.add(step, loss, scored)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                metrics.save()
                checkpoints.save(step + 1, state, selections.open_rows() if selections else {})
    finally:
        metrics.close()
        checkpoints.close()
    if selections is not None:
        offered = config.superbatch_size * config.steps
        selections.finish(config, config.name, config.version, parents, offered)
    return state


def _distill(
    config: DistillConfig, graph: Any, state: TrainState, loader: BlockLoader, candidates: Candidates, step: int
) -> tuple[TrainState, jax.Array, Scored]:
    usable = int(candidates["valid"].sum())
    if usable < config.batch_size:
        raise DataError(
            f"step {step}: {usable} of {len(candidates['valid'])} candidates have valid embeddings and "
            f"{config.batch_size} picks are wanted: raise filter_ratio, or see the rejections of {config.embeddings}"
        )
    if loader.reference is None or "reference_image" not in candidates or "reference_text" not in candidates:
        raise IntegrityError("distill reads a reference's embeddings, and its loader has none")
    info = loader.reference.info
    reference = PairEmbeddings(
        jnp.asarray(candidates["reference_image"]),
        jnp.asarray(candidates["reference_text"]),
        jnp.float32(info.scale),
        jnp.float32(info.bias),
    )
    state, loss, scored = distill_step(
        graph, config.optimisation, config.selection, config.scoring, state, jax.random.key(config.seed),
        candidates["image"], candidates["tokens"], reference, candidates["valid"],
    )  # fmt: skip
    scored = jax.device_get(scored)
    if not scored.finite:
        raise DataError(
            f"step {step}: a candidate's score is not finite: the learner diverged (lower learning_rate), or the "
            f"embeddings in {config.embeddings} are damaged (superbatch verify tells)"
        )
    return state, loss, scored


def check_embeddings(config: DistillConfig, corpus: manifests.Manifest) -> manifests.Manifest:
    """Checks that cached embeddings belong to this corpus, this decoder and, if given, this reference.

    Raises:
      IntegrityError: naming what differs, with both values and the cure.
    """
    manifest = manifests.read(config.embeddings, kind="embeddings")
    info = manifest.embeddings
    if info is None:
        raise IntegrityError(f"{config.embeddings}: the manifest of embeddings lacks its `embeddings` section")
    cure = "embed this corpus with this reference, or name the directories that belong together"
    of_corpus = manifest.parent("corpus").fingerprint
    if of_corpus != corpus.fingerprint:
        raise IntegrityError(
            f"{config.embeddings} holds embeddings of corpus {of_corpus}, and {config.corpus} is corpus "
            f"{corpus.fingerprint}: {cure}"
        )
    if [s.rows for s in manifest.shards] != [s.rows for s in corpus.shards]:
        raise IntegrityError(
            f"{config.embeddings} has shards of {[s.rows for s in manifest.shards]} rows, and {config.corpus} of "
            f"{[s.rows for s in corpus.shards]}: {cure}"
        )
    if info.decoder != DECODER:
        raise IntegrityError(
            f"{config.embeddings} was made with decoder {info.decoder!r}, and this release decodes with {DECODER!r}: "
            "embed again with this release"
        )
    if config.reference is not None:
        if config.reference.endswith(".npz"):
            raise ConfigError(
                f"reference is {config.reference}, and distill compares workdirs only: leave --reference out. The "
                "embeddings name the checkpoint that they were made with (superbatch lineage shows it)"
            )
        wanted = manifests.read(config.reference, kind="model").model
        for part in ("preprocessing", "tokenizer", "parameters"):
            theirs, ours = getattr(info.reference, part), getattr(wanted, part)
            if theirs != ours:
                raise IntegrityError(
                    f"{config.embeddings} was made by a reference with {part} {theirs}, and {config.reference} has "
                    f"{part} {ours}: {cure}"
                )
    return manifest


def _finished(config: TrainConfig, parents: list[manifests.Parent]) -> manifests.Manifest | None:
    if not manifests.exists(config.workdir):
        return None
    manifest = manifests.read(config.workdir, kind="model")
    manifests.refuse_other_config(config.workdir, manifest.config, config, manifests.content_fields(config))
    _refuse_other_parents(config.workdir, {p.role: p.fingerprint for p in manifest.parents}, parents)
    if config.tokenizer is not None and manifest.model is not None:
        given = tokenizer.load(config.tokenizer, presets.get(config.preset).text_length).fingerprint
        if given != manifest.model.tokenizer:
            raise ConfigError(
                f"{config.workdir} was trained with tokenizer {manifest.model.tokenizer}, and {config.tokenizer} is "
                f"{given}: choose another workdir"
            )
    return manifest


def _claim(config: TrainConfig, parents: list[manifests.Parent], architecture: Architecture) -> None:
    """Writes `config.json`, or checks that the one there is this run's."""
    path = storage.as_path(config.workdir) / CONFIG_FILE
    if path.exists():
        try:
            stored = json.loads(path.read_bytes())
            before = {parent["role"]: parent["fingerprint"] for parent in stored["parents"]}
            settings = stored["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is damaged ({error!r}): delete the workdir and train again") from None
        manifests.refuse_other_config(config.workdir, settings, config, manifests.content_fields(config))
        _refuse_other_parents(config.workdir, before, parents)
        return
    content = {
        "config": manifests.resolved_config(config),
        "architecture": dataclasses.asdict(architecture),
        "parents": [p.model_dump() for p in parents],
    }
    storage.replace(path, json.dumps(content, indent=2).encode() + b"\n")


def _refuse_other_parents(workdir: str, before: dict[str, str], parents: list[manifests.Parent]) -> None:
    if set(before) != {parent.role for parent in parents}:
        raise ConfigError(
            f"{workdir} was made from {' and '.join(sorted(before))}, and this run reads "
            f"{' and '.join(sorted(p.role for p in parents))}: train and distill need workdirs of their own"
        )
    for now in parents:
        if before[now.role] != now.fingerprint:
            raise IntegrityError(
                f"{workdir} was made from {now.role} {before[now.role]}, and {now.path} is {now.fingerprint}: choose "
                "another workdir, or delete this one"
            )


def _tokenizer(
    config: TrainConfig, corpus: manifests.Manifest, embeddings: manifests.Manifest | None
) -> tokenizer.Tokenizer:
    """Finds the run's tokenizer: the workdir's own, the one given, the embeddings', or one trained now."""
    preset = presets.get(config.preset)
    own = storage.as_path(config.workdir) / tokenizer.FILE_NAME
    if own.exists():
        found = tokenizer.load(str(own), preset.text_length)
        if config.tokenizer is not None and tokenizer.load(config.tokenizer, preset.text_length).model != found.model:
            raise ConfigError(
                f"tokenizer is {config.tokenizer}, and {config.workdir} was begun with another: choose another workdir"
            )
        return found
    if config.tokenizer is not None:
        found = tokenizer.load(config.tokenizer, preset.text_length)
    elif embeddings is not None and embeddings.embeddings is not None and isinstance(config, DistillConfig):
        cached = storage.as_path(config.embeddings) / embeddings.embeddings.tokenizer_file
        found = tokenizer.load(str(cached), preset.text_length)
    else:
        log.info("training a tokenizer on the texts of %s", config.corpus)
        found = tokenizer.train(
            _texts(config.corpus, corpus), config.vocabulary or preset.vocabulary, preset.text_length
        )
    return found


def _texts(directory: str, corpus: manifests.Manifest) -> Iterator[str]:
    # Rows are shuffled, so the first ones are a sample.
    left = _TOKENIZER_TEXTS
    for shard in corpus.shards:
        for record in shards.read_all(storage.as_path(directory) / shard.name, shard.rows):
            if not left:
                return
            left -= 1
            yield records.decode_example(record).text


def _cached(config: TrainConfig, manifest: manifests.Manifest) -> CachedReference:
    if not isinstance(config, DistillConfig) or manifest.embeddings is None:
        raise IntegrityError(f"{manifest.name} holds no embeddings")
    return CachedReference(shards.open_dataset(config.embeddings, manifest), manifest.embeddings)


def _complete(
    config: TrainConfig,
    architecture: Architecture,
    state: TrainState,
    tokens: tokenizer.Tokenizer,
    parents: list[manifests.Parent],
) -> manifests.Manifest:
    names = [n for n in storage.relative_files(config.workdir) if not n.startswith("selections/")]
    learned = config.batch_size * config.steps
    return manifests.write(
        config.workdir,
        manifests.make(
            kind="model", name=config.name, version=config.version, config=config, parents=parents,
            counts=manifests.Counts(read=learned, kept=learned),
            shards=[], files=manifests.describe_files(config.workdir, names),
            model=identify(architecture, state.parameters, tokens),
        ),
    )  # fmt: skip
