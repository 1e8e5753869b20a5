"""Pointing an alias at a published version: read, compare, swap.

Of several movers at a time each swap is against the pointer that was read, so none undoes what it has not seen: whoever
lost reads again and decides anew. The last one to swap is the one whose version stands there.
"""

import logging
import random
import time

from beam_pipelines import store as stores
from beam_pipelines.publication import Publication, now
from schemas.alias import Alias, file_name
from schemas.errors import DataError

_TRIES = 30
_SECONDS = 0.05  # waited after the first lost swap, at most; then twice as long, and so on
_LONGEST = 2.0  # a bucket takes one write of an object a second
log = logging.getLogger(__name__)


def named(publication: Publication, alias: str) -> bool:
    """Says whether the alias names this version already.

    Raises:
      IntegrityError: the pointer was altered.
    """
    found = stores.at(publication.destination).read(file_name(publication.name, alias))
    return found is not None and _parse(publication, alias, found.content).names_the_same_as(_wanted(publication))


def move(publication: Publication, alias: str) -> bool:
    """Points the alias at this version; returns False if it did so already.

    Raises:
      IntegrityError: the pointer was altered.
      DataError: others kept moving it.
    """
    store, name, wanted = stores.at(publication.destination), file_name(publication.name, alias), _wanted(publication)
    for attempt in range(_TRIES):
        found = store.read(name)
        before = None if found is None else _parse(publication, alias, found.content)
        if before is not None and before.names_the_same_as(wanted):
            return False
        if store.replace(name, wanted.serialise(), stores.ABSENT if found is None else found.generation):
            was = "" if before is None else f"; it was {before.version}, moved by {before.publisher} at {before.moved}"
            log.info("publish: %s names %s now%s", store.url(name), publication.version, was)
            return True
        time.sleep(random.uniform(0, min(_SECONDS * 2**attempt, _LONGEST)))
    raise DataError(
        f"{store.url(name)} could not be moved to {publication.version}: another publisher was quicker {_TRIES} times. "
        "The version is published; run the command again to move the alias"
    )


def _wanted(publication: Publication) -> Alias:
    return Alias(
        name=publication.name, version=publication.version, fingerprint=publication.fingerprint,
        path=publication.directory, moved=now(), publisher=publication.publisher,
    )  # fmt: skip


def _parse(publication: Publication, alias: str, content: bytes) -> Alias:
    return Alias.parse(content, stores.at(publication.destination).url(file_name(publication.name, alias)))
