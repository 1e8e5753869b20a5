"""How the files of a version come to its destination, in an order that leaves it whole or absent.

    shards ─► other files ─► features.json, dataset_info.json ─► manifest.json

Each is created only where there is none, read once from the source, held against the source's manifest on the way, and
afterwards against what the store says that it holds. So whoever dies, resumes or races, a manifest stands beside all
its files or not at all; and TFDS, which looks for its own two, finds every row beside them.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from beam_pipelines import store as stores
from beam_pipelines.publication import Publication, check_claim, read_published, read_source, refuse_foreign
from beam_pipelines.store import Stored
from schemas import features, storage
from schemas import manifest as manifests
from schemas.errors import IntegrityError

_CHUNK = 1 << 20
_AT_A_TIME = 8  # of the files that are no shards: small ones, but there may be thousands
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copied:
    """A file that is at its destination, and whether it had been there before."""

    name: str
    adopted: bool


def copy_file(publication: Publication, file: manifests.File) -> Copied:
    """Brings one file to its destination, or takes up the one that is there.

    Raises:
      IntegrityError: the source's file is not the one that its manifest describes, or the one that is there is not it.
      OSError: either could not be read, or the file not be written.
    """
    store, made = publication.store, False
    there = store.describe(file.name)
    if there is not None:
        ours = _read(publication, file)
    else:
        with storage.temporary_file(store.url(file.name)) as temporary:
            ours = _read(publication, file, temporary)
            made = store.create(file.name, temporary)
        there = store.describe(file.name)
    if there != ours:
        found = "is gone again" if there is None else f"has {there.size} bytes with CRC32C {there.crc32c}"
        raise IntegrityError(
            f"{store.url(file.name)} {found}, and the dataset's has {ours.size} with {ours.crc32c}: "
            f"{'it was damaged on its way' if made else 'it is not ours'}. Nothing is ever overwritten here: delete it "
            "if nobody needs it, or publish under another version"
        )
    return Copied(file.name, adopted=not made)


def _read(publication: Publication, file: manifests.File, into: Path | None = None) -> Stored:
    """Reads a file of the source whole, and into a local file if one is named.

    Returns:
      What a store has to say of it.

    Raises:
      IntegrityError: it is not the one that the source's manifest describes.
    """
    path = storage.as_path(publication.source) / file.name
    digest, checksum = hashlib.sha256(), stores.Checksum()
    try:
        source = path.open("rb")
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing, and its manifest lists it: make the dataset again") from None
    with source, open(into or os.devnull, "wb") as target:
        while piece := cast(bytes, source.read(_CHUNK)):
            digest.update(piece)
            checksum.update(piece)
            target.write(piece)
    found = checksum.stored()
    if (found.size, digest.hexdigest()) != (file.bytes, file.sha256):
        raise IntegrityError(
            f"{path} has {found.size} bytes with sha256 {digest.hexdigest()}, and its manifest records {file.bytes} "
            f"with {file.sha256}: it is damaged. Make the dataset again"
        )
    return found


def complete(publication: Publication, copied: Iterable[Copied]) -> None:
    """The last move, when every shard is there: the other files, TFDS's own, and the manifest.

    Raises:
      ConfigError, IntegrityError: what is there is not this version, whole, and nothing else.
    """
    content, manifest = read_source(publication)
    if missing := {shard.name for shard in manifest.shards} - {file.name for file in copied}:
        raise IntegrityError(f"{publication.directory}: {min(missing)} was not copied, and comes before the manifest")
    with ThreadPoolExecutor(_AT_A_TIME, "copy") as threads:
        others = [file for file in manifest.files if _base(file) not in features.FILES]
        list(threads.map(lambda file: copy_file(publication, file), others))
    for name in sorted(features.FILES, reverse=True):  # TFDS opens what has a dataset_info.json
        for file in manifest.files:
            if _base(file) == name:
                copy_file(publication, file)
    _check_whole(publication, manifest)
    if stores.put(publication.store, manifests.FILE_NAME, content):
        log.info("publish: %s is complete", publication.directory)
    elif read_published(publication) != manifest:
        log.info("publish: %s was completed from another run of the same job", publication.directory)
    storage.remove_temporary(publication.directory)


def _base(file: manifests.File) -> str:
    return file.name.rpartition("/")[2]


def is_whole(publication: Publication) -> bool:
    """Says whether every file of a version is there, by its size; a warning names the first that is not."""
    _, manifest = read_source(publication)
    wrong = _first_wrong(manifest, publication.store.sizes())
    if wrong is not None:
        log.warning("publish: %s is gone, or has another size: copied again if it is gone", wrong.name)
    return wrong is None


def _first_wrong(manifest: manifests.Manifest, sizes: Mapping[str, int]) -> manifests.File | None:
    """The first file of a manifest that is not there, or has another size."""
    return next((file for file in (*manifest.shards, *manifest.files) if sizes.get(file.name) != file.bytes), None)


def _check_whole(publication: Publication, manifest: manifests.Manifest) -> None:
    """Lists the destination once more, just before the manifest: every file, nothing else, and still ours."""
    sizes = publication.store.sizes()
    if (file := _first_wrong(manifest, sizes)) is not None:
        now = f"has {sizes[file.name]} bytes of {file.bytes}" if file.name in sizes else "is gone"
        raise IntegrityError(f"{publication.store.url(file.name)} was copied, and {now}: who else writes there?")
    refuse_foreign(publication, manifest, sizes)
    check_claim(publication)
