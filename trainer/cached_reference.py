"""The reference's cached embeddings: do they belong to this corpus, and what do they say of its rows?

Enters: an embeddings directory and the corpus it claims to embed. Leaves: a `CachedReference` that gives the vectors of
any rows, having compared every uid.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from schemas import manifest as manifests
from schemas import records, shards, storage
from schemas.errors import ConfigError, IntegrityError
from trainer import decode

if TYPE_CHECKING:  # worker processes that only read shall not import JAX
    from trainer.config import DistillConfig


@dataclass(frozen=True)
class CachedReference:
    """Embedding rows beside a corpus, and how to read them."""

    reader: shards.DatasetReader
    info: manifests.EmbeddingInfo

    def read(self, rows: list[int], uids: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns image vectors, text vectors (float32 [rows, width], unit norm) and which rows are valid.

        Raises:
          IntegrityError: a row belongs to another example than the corpus row.
        """
        stored = [records.decode_embedding(record) for record in self.reader.read(rows)]
        for row, uid, embedding in zip(rows, uids, stored, strict=True):
            if embedding.uid != uid:
                raise IntegrityError(
                    f"row {row} is {uid} in the corpus and {embedding.uid} in the embeddings {self.reader.directory}: "
                    "they are not aligned. Embed this corpus again"
                )
        return (
            records.unpack_vectors([e.image_embedding for e in stored], self.info.dtype, self.info.image_width),
            records.unpack_vectors([e.text_embedding for e in stored], self.info.dtype, self.info.text_width),
            np.array([e.valid for e in stored]),
        )


def open_cached(config: "DistillConfig", manifest: manifests.Manifest) -> CachedReference:
    """Opens the embeddings whose manifest `check` returned."""
    return CachedReference(shards.open_dataset(config.embeddings, manifest), info_of(config, manifest))


def info_of(config: "DistillConfig", manifest: manifests.Manifest) -> manifests.EmbeddingInfo:
    """What a manifest of embeddings says of its reference.

    Raises:
      IntegrityError: it says nothing.
    """
    if manifest.embeddings is None:
        raise IntegrityError(f"{config.embeddings}: the manifest of embeddings lacks its `embeddings` section")
    return manifest.embeddings


def check(config: "DistillConfig", corpus: manifests.Manifest) -> manifests.Manifest:
    """Checks that cached embeddings belong to this corpus, a decoder we have and, if given, this reference.

    Raises:
      IntegrityError: naming what differs, with both values and the cure.
      ConfigError: the reference given is no workdir.
    """
    manifest = manifests.read(config.embeddings, kind="embeddings")
    info = info_of(config, manifest)
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
    if info.decoder not in decode.DECODERS.values():
        raise IntegrityError(
            f"{config.embeddings} was made with decoder {info.decoder!r}, and this release has "
            f"{', '.join(decode.DECODERS.values())}: embed again with this release"
        )
    if config.reference is not None:
        _check_reference(config, config.reference, info, cure)
    return manifest


def _check_reference(config: "DistillConfig", reference: str, info: manifests.EmbeddingInfo, cure: str) -> None:
    if storage.is_npz(reference):
        raise ConfigError(
            f"reference is {reference}, and distill compares workdirs only: leave --reference out. The embeddings "
            "name the checkpoint that they were made with (superbatch lineage shows it)"
        )
    wanted = manifests.read(reference, kind="model").model
    for part in ("preprocessing", "tokenizer", "parameters"):
        theirs, ours = getattr(info.reference, part), getattr(wanted, part)
        if theirs != ours:
            raise IntegrityError(
                f"{config.embeddings} was made by a reference with {part} {theirs}, and {reference} has {part} {ours}: "
                f"{cure}"
            )
