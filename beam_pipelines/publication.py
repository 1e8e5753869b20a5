"""What is published where, and whose a version is.

Enters: a complete artifact and a destination. Leaves: `_claim.json` in `<destination>/<name>/<version>/`, if none was
there: it comes before every other file, so of several publishers of one version all but one read who holds it.
"""

import getpass
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

from beam_pipelines import store as stores
from beam_pipelines.store import Store
from schemas import access, alias, claim, storage
from schemas import manifest as manifests
from schemas.errors import ConfigError, IntegrityError
from schemas.identity import canonical_json

KINDS = ("corpus", "export")
_SHOWN_DIGITS = 12
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """One version on its way: all that a worker is told."""

    source: str  # directory of the artifact
    destination: str  # of all versions
    name: str
    version: str
    fingerprint: str
    files: str  # as in the claim
    manifest_sha256: str  # of the source's manifest.json
    publisher: str

    @property
    def directory(self) -> str:
        """Where the version lies."""
        return f"{self.destination}/{self.name}/{self.version}"

    @property
    def store(self) -> Store:
        """The version's files."""
        return stores.at(self.directory)


def prepare(source: str, destination: str, publisher: str | None) -> Publication:
    """Reads what is to be published, and where that will lie.

    Raises:
      ConfigError: the source is of a kind that is not published, or lies at the destination already.
      DataError, IntegrityError: it is not complete, or its manifest was altered.
    """
    manifest = manifests.read(source)
    kinds = [kind for kind in get_args(manifests.Kind) if kind in KINDS]
    if manifest.kind not in kinds:
        raise ConfigError(
            f"dataset is {source!r}, which holds {manifest.kind}; {' and '.join(kinds)} can be published: what "
            "`superbatch curate`, for example, has made"
        )
    manifests.check_dataset_name("the manifest's name", manifest.name)
    manifests.check_version(manifest.version)
    if manifest.name == alias.DIRECTORY:
        raise ConfigError(
            f"the dataset's name is {manifest.name!r}, where aliases are kept: make it under another name"
        )
    content = storage.read_bytes(storage.as_path(source) / manifests.FILE_NAME)
    made = Publication(
        source=storage.absolute(source), destination=storage.absolute(destination).rstrip("/"),
        name=manifest.name, version=manifest.version, fingerprint=manifest.fingerprint, files=digest_files(manifest),
        manifest_sha256=hashlib.sha256(content).hexdigest(), publisher=publisher or _account(destination),
    )  # fmt: skip
    published = made.source == made.directory and made.store.read(claim.FILE_NAME) is not None
    if storage.overlap(made.source, made.directory) and not published:  # of a published one, an alias may be moved
        raise ConfigError(
            f"dataset is {source!r}, and it would be published to {made.directory}, where one lies in the other: "
            "choose another destination"
        )
    return made


def digest_files(manifest: manifests.Manifest) -> str:
    """Returns what a claim says of the files of a version."""
    files = sorted([file.name, file.sha256] for file in (*manifest.shards, *manifest.files))
    return hashlib.sha256(canonical_json(files)).hexdigest()


def _account(destination: str) -> str:
    """Who publishes, if nobody says: the service account that writes to the bucket, else this machine's user."""
    if storage.is_remote(destination):
        access.check(destination)
        if account := access.service_account():
            return account
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise ConfigError("publisher is not given, and this machine's user has no name: add --publisher=NAME") from None


def read_source(publication: Publication) -> tuple[bytes, manifests.Manifest]:
    """Returns the source's manifest, and its bytes.

    Raises:
      IntegrityError: it is not the one that the job began with.
    """
    content = storage.read_bytes(storage.as_path(publication.source) / manifests.FILE_NAME)
    if hashlib.sha256(content).hexdigest() != publication.manifest_sha256:
        raise IntegrityError(
            f"{publication.source} changed while it was published: run this again when nobody writes there"
        )
    manifest = manifests.Manifest.model_validate_json(content)
    return content, manifest


def is_complete(publication: Publication) -> bool:
    """Says whether this version is there already.

    Raises:
      ConfigError: it is another publisher's.
      IntegrityError: what is there is neither theirs nor ours.
    """
    made = manifests.exists(publication.directory)
    held = publication.store.read(claim.FILE_NAME)  # later: who has written a manifest meanwhile has a claim
    if held is not None:
        _refuse_other(publication, held.content)
    if made:
        _refuse_other_files(publication, read_published(publication))
    return made and held is not None  # without a claim nobody has compared the files yet


def read_published(publication: Publication) -> manifests.Manifest:
    """Reads the manifest that is there.

    Raises:
      IntegrityError: it was altered, or is of other content.
    """
    found = manifests.read(publication.directory)
    if found.fingerprint != publication.fingerprint:
        raise IntegrityError(
            f"{publication.directory} already holds {found.kind} {found.fingerprint[:_SHOWN_DIGITS]}, and "
            f"{publication.source} is {publication.fingerprint[:_SHOWN_DIGITS]}. {_cure()}"
        )
    return found


def _refuse_other_files(publication: Publication, found: manifests.Manifest) -> None:
    """Checks that what is published has the source's very files, and not only its rows."""
    _, manifest = read_source(publication)
    theirs, ours = ({f.name: f.sha256 for f in (*m.shards, *m.files)} for m in (found, manifest))
    if other := sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)):
        raise ConfigError(
            f"{publication.directory} is published with the same rows, and its {other[0]} is not that of "
            f"{publication.source}. {_cure()}"
        )


def claim_version(publication: Publication) -> None:
    """Makes the version this publication's, or goes on with what an earlier attempt began.

    Raises:
      ConfigError: another publisher holds it, with other content.
      IntegrityError: files lie there that belong to neither.
    """
    store = publication.store
    _, manifest = read_source(publication)
    made = claim.Claim(
        fingerprint=publication.fingerprint, files=publication.files, name=publication.name,
        version=publication.version, publisher=publication.publisher, created=now(),
    )  # fmt: skip
    if stores.put(store, claim.FILE_NAME, made.serialise()):
        log.info("publish: %s is claimed for %s", publication.directory, publication.publisher)
    else:
        held = check_claim(publication)
        log.info("publish: going on with %s, which %s began at %s", publication.directory, held.publisher, held.created)
    refuse_foreign(publication, manifest, store.sizes())


def check_claim(publication: Publication) -> claim.Claim:
    """Reads the claim that must be there.

    Raises:
      ConfigError: it is for other content.
      IntegrityError: it is gone, or altered.
    """
    held = publication.store.read(claim.FILE_NAME)
    if held is None:
        raise IntegrityError(
            f"{publication.store.url(claim.FILE_NAME)} was there, and is gone: who deletes files there?"
        )
    return _refuse_other(publication, held.content)


def _refuse_other(publication: Publication, stored: bytes) -> claim.Claim:
    path = publication.store.url(claim.FILE_NAME)
    held = claim.Claim.parse(stored, path)
    if held.fingerprint != publication.fingerprint:
        raise ConfigError(
            f"{publication.directory} is held by {held.publisher} since {held.created}, for dataset "
            f"{held.fingerprint[:_SHOWN_DIGITS]}, and {publication.source} is "
            f"{publication.fingerprint[:_SHOWN_DIGITS]}. {_cure()}"
        )
    if held.files != publication.files:
        raise ConfigError(
            f"{publication.directory} is held by {held.publisher} since {held.created}, for the same rows with other "
            f"files beside them than {publication.source} has (another card, for example). {_cure()}"
        )
    if (held.name, held.version) != (publication.name, publication.version):
        raise IntegrityError(f"{path} is for {held.name} {held.version}: it was copied there from elsewhere")
    return held


def refuse_foreign(publication: Publication, manifest: manifests.Manifest, names: Iterable[str]) -> None:
    """Checks the names of what lies in the version's directory.

    Raises:
      IntegrityError: naming a file that is neither in the manifest nor the claim.
    """
    ours = {file.name for file in (*manifest.shards, *manifest.files)} | {claim.FILE_NAME, manifests.FILE_NAME}
    if foreign := sorted(set(names) - ours):
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise IntegrityError(
            f"{publication.store.url(foreign[0])}{more} is not ours: only what the manifest lists may lie in a "
            "version's directory. Move it elsewhere, or publish under another version"
        )


def _cure() -> str:
    return (
        "A version never changes: make this dataset under another one (--version, or --name, of `superbatch curate`, "
        "`ingest` or whichever job makes it) and publish that"
    )


def now() -> str:
    """The time of day, as records of a publication write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
