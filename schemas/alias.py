"""A pointer to a published version under a name that stays: `<destination>/aliases/<name>/<alias>.json`.

Versions never change; which of them is `latest` does. The pointer is the one file of a destination that is replaced.
"""

import re

from schemas import storage
from schemas.errors import ConfigError, DataError
from schemas.sealed import Sealed

DIRECTORY = "aliases"


class Alias(Sealed):
    """The version that an alias names, who pointed it there, and when."""

    name: str
    version: str
    fingerprint: str
    path: str
    moved: str
    publisher: str

    def names_the_same_as(self, other: "Alias") -> bool:
        """Says whether both point at the same version in the same place, whoever moved them and when."""
        fields = ("name", "version", "fingerprint", "path")
        return all(getattr(self, field) == getattr(other, field) for field in fields)


def file_name(name: str, alias: str) -> str:
    """Returns where an alias of a dataset lies below a destination."""
    return f"{DIRECTORY}/{name}/{alias}.json"


def check_alias(alias: str) -> None:
    """Checks an alias, which becomes a file's name.

    Raises:
      ConfigError: naming the value and what is allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", alias):
        raise ConfigError(
            f"alias is {alias!r}; it must be letters, digits, _ . and -, beginning with a letter or digit, 100 at most"
        )


def read_alias(destination: str, name: str, alias: str) -> Alias:
    """Reads which version of a dataset an alias names.

    Raises:
      DataError: there is no such alias.
      IntegrityError: one of its bytes is not what the command wrote.
    """
    path = storage.as_path(destination) / file_name(name, alias)
    try:
        stored = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{name} has no alias {alias!r} in {destination}: there is no {path}") from None
    return Alias.parse(stored, str(path))
