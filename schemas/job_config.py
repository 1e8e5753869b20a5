"""A job's settings: which of them decide its output's content, and is a directory's earlier job this one?

Every job has a config dataclass; its flags are made from it, and the manifest of what it makes records it.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError
from schemas.identity import canonical_json

if TYPE_CHECKING:  # a manifest records these settings
    from schemas.manifest import Parent


def content(default: Any = dataclasses.MISSING, **keywords: Any) -> Any:
    """Declares a config field that decides what a job's output contains, and so enters its fingerprint."""
    return dataclasses.field(default=default, metadata={"content": True}, **keywords)


def content_fields(config: Any) -> list[str]:
    """Lists the fields of a config dataclass declared with `content`, sorted."""
    return sorted(f.name for f in dataclasses.fields(config) if f.metadata.get("content"))


def resolved(config: Any) -> dict[str, Any]:
    """Returns the config as plain JSON values, every default filled in."""
    return json.loads(canonical_json(dataclasses.asdict(config)))


def refuse_other(directory: str, existing: dict[str, Any], config: Any, names: list[str]) -> None:
    """Checks that a directory's earlier job was this one, for the fields named.

    Raises:
      ConfigError: naming the first few fields that differ, with both values.
    """
    wanted = resolved(config)
    differing = [name for name in names if existing.get(name) != wanted.get(name)]
    if differing:
        shown = "; ".join(f"{n} was {existing.get(n)!r}, now {wanted.get(n)!r}" for n in differing[:4])
        raise ConfigError(
            f"{directory} was made by a job with other settings ({shown}): choose another directory, or delete this one"
        )


def refuse_other_parents(directory: str, before: Mapping[str, str], parents: "Sequence[Parent]") -> None:
    """Checks that a directory's earlier job read what this one reads.

    Args:
      directory: of the output.
      before: the fingerprints of the earlier job's inputs, by role.
      parents: the inputs of this one.

    Raises:
      ConfigError: naming the input that differs, with both fingerprints.
    """
    if set(before) != {parent.role for parent in parents}:
        raise ConfigError(
            f"{directory} was made from {_and(before) or 'nothing'}, and this run reads "
            f"{_and(p.role for p in parents) or 'nothing'}: choose another directory"
        )
    for now in parents:
        if before[now.role] != now.fingerprint:
            raise ConfigError(
                f"{directory} was made from {now.role} {before[now.role]}, and {now.path} is {now.fingerprint}: "
                "choose another directory, or delete this one"
            )


def _and(roles: Iterable[str]) -> str:
    return " and ".join(sorted(roles))
