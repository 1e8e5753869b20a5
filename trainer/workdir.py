"""A run's directory: is it this run's, is it finished, which tokenizer does it hold?

Enters: a config and the manifests of what it reads. Leaves: a workdir that names its run in `config.json`, holds the
tokenizer, and, when the run is over, a manifest.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator
from typing import Any

from schemas import job_config, records, shards, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, IntegrityError
from trainer import presets, tokenizer
from trainer.config import DistillConfig, TrainConfig
from trainer.model import CONFIG_FILE, Architecture, identify

_TOKENIZER_TEXTS = 50_000
log = logging.getLogger(__name__)


def finished(config: TrainConfig, parents: list[manifests.Parent]) -> manifests.Manifest | None:
    """Returns the manifest of this very run if it is complete.

    Raises:
      ConfigError, IntegrityError: the workdir holds another run.
    """
    if not manifests.exists(config.workdir):
        return None
    manifest = manifests.read(config.workdir, kind="model")
    job_config.refuse_other(config.workdir, manifest.config, config, job_config.content_fields(config))
    job_config.refuse_other_parents(config.workdir, {p.role: p.fingerprint for p in manifest.parents}, parents)
    if config.tokenizer is not None and manifest.model is not None:
        given = tokenizer.load(config.tokenizer, presets.get(config.preset).text_length).fingerprint
        if given != manifest.model.tokenizer:
            raise ConfigError(
                f"{config.workdir} was trained with tokenizer {manifest.model.tokenizer}, and {config.tokenizer} is "
                f"{given}: choose another workdir"
            )
    return manifest


def claim(
    config: TrainConfig, parents: list[manifests.Parent], architecture: Architecture, tokens: tokenizer.Tokenizer
) -> None:
    """Writes `config.json` and the tokenizer, or checks that those there are this run's.

    Raises:
      ConfigError, IntegrityError: the workdir holds another run, or is damaged.
    """
    path = storage.as_path(config.workdir) / CONFIG_FILE
    if path.exists():
        try:
            stored = json.loads(path.read_bytes())
            before = {parent["role"]: parent["fingerprint"] for parent in stored["parents"]}
            settings = stored["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is damaged ({error!r}): delete the workdir and train again") from None
        job_config.refuse_other(config.workdir, settings, config, job_config.content_fields(config))
        job_config.refuse_other_parents(config.workdir, before, parents)
    else:
        content = {
            "config": job_config.resolved(config),
            "architecture": dataclasses.asdict(architecture),
            "parents": [p.model_dump() for p in parents],
        }
        storage.replace(path, json.dumps(content, indent=2).encode() + b"\n")
    own = storage.as_path(config.workdir) / tokenizer.FILE_NAME
    if not own.exists():
        storage.replace(own, tokens.model)


def find_tokenizer(
    config: TrainConfig, corpus: manifests.Manifest, embeddings: manifests.Manifest | None
) -> tokenizer.Tokenizer:
    """Finds the run's tokenizer: the workdir's own, the one given, the embeddings', or one trained now.

    Raises:
      ConfigError: the one given is none, or not the one that the run was begun with.
    """
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
        return tokenizer.load(config.tokenizer, preset.text_length)
    if embeddings is not None and embeddings.embeddings is not None and isinstance(config, DistillConfig):
        cached = storage.as_path(config.embeddings) / embeddings.embeddings.tokenizer_file
        return tokenizer.load(str(cached), preset.text_length)
    log.info("training a tokenizer on the texts of %s", config.corpus)
    return tokenizer.train(_texts(config.corpus, corpus), config.vocabulary or preset.vocabulary, preset.text_length)


def complete(
    config: TrainConfig,
    architecture: Architecture,
    parameters: Any,
    tokens: tokenizer.Tokenizer,
    parents: list[manifests.Parent],
) -> manifests.Manifest:
    """Removes what killed attempts left behind, and writes the manifest of the finished model."""
    storage.remove_temporary(config.workdir)
    names = [n for n in storage.relative_files(config.workdir) if not n.startswith("selections/")]
    learned = config.batch_size * config.steps
    return manifests.write(
        config.workdir,
        manifests.make(
            kind="model", name=config.name, version=config.version, config=config, parents=parents,
            counts=manifests.Counts(read=learned, kept=learned),
            shards=[], files=manifests.describe_files(config.workdir, names),
            model=identify(architecture, parameters, tokens),
        ),
    )  # fmt: skip


def _texts(directory: str, corpus: manifests.Manifest) -> Iterator[str]:
    # Rows are shuffled, so the first ones are a sample.
    left = _TOKENIZER_TEXTS
    for shard in corpus.shards:
        for record in shards.read_all(storage.as_path(directory) / shard.name, shard.rows):
            if not left:
                return
            left -= 1
            yield records.decode_pair(record).text
