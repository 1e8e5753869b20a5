"""`superbatch lineage`: the tree of an artifact's parents, over rounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import tyro

from schemas import manifest as manifests
from schemas import selections, storage
from schemas.errors import SuperbatchError
from schemas.rejections import printable

_SHOWN_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class LineageConfig:
    """Print what an artifact was made from, and what that was made from, down to the raw corpora."""

    path: Annotated[str, tyro.conf.Positional]
    """directory of an artifact"""


def run(config: LineageConfig) -> list[str]:
    """Returns the tree's lines.

    Raises:
      DataError: there is no complete artifact at the path.
    """
    path = config.path if manifests.exists(config.path) else selections.resolve(config.path)
    manifest = manifests.read(path)
    return [_describe(manifest, path), *_parents(manifest, "")]


def _parents(manifest: manifests.Manifest, indent: str) -> Iterator[str]:
    """Yields the lines below an artifact. They come to an end: a fingerprint covers those of the parents."""
    for place, parent in enumerate(manifest.parents):
        last = place == len(manifest.parents) - 1
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if storage.is_npz(parent.path):  # a checkpoint from elsewhere has no manifest, and no parents
            said = f"{parent.role}: checkpoint {parent.fingerprint[:_SHOWN_DIGITS]}  {parent.path}"
            yield f"{indent}{branch}{printable(said)}"
            continue
        try:
            found = manifests.read(parent.path)
        except SuperbatchError:
            said = f"{parent.role} {parent.fingerprint[:_SHOWN_DIGITS]} (not found at {parent.path})"
            yield f"{indent}{branch}{printable(said)}"
            continue
        if found.fingerprint != parent.fingerprint:  # something else lies there now, with parents of its own
            now = f"(at {parent.path} there is {found.fingerprint[:_SHOWN_DIGITS]} now)"
            yield f"{indent}{branch}{printable(f'{parent.role} {parent.fingerprint[:_SHOWN_DIGITS]} {now}')}"
            continue
        yield f"{indent}{branch}{printable(parent.role)}: {_describe(found, parent.path)}"
        yield from _parents(found, indent + below)


def _describe(manifest: manifests.Manifest, path: str) -> str:
    rows = f", {manifest.rows} rows" if manifest.shards else ""
    named = f"{manifest.kind} {manifest.name} {manifest.version} {manifest.fingerprint[:_SHOWN_DIGITS]}"
    return printable(f"{named}{rows}  {path}")
