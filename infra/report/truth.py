"""The truth about a pool's pairs, where somebody knows it. No stage has seen it; the report scores with it alone.

Enters: a JSON file {uid: "matched" | "mismatched" | "boilerplate"}, as benchmarks write it. Leaves: the same, checked.
"""

import json

from schemas import storage
from schemas.errors import ConfigError

MATCHED = "matched"
WRONG = ("mismatched", "boilerplate")
KINDS = (MATCHED, *WRONG)
_BY_ITSELF = ("sources", "truth.json")


def read(path: str | None, *directories: str) -> dict[str, str]:
    """Reads the truth.

    Args:
      path: of the file; None looks for `sources/truth.json` in the directories.
      directories: the first that has the file counts.

    Returns:
      What each uid really is; empty if there is no file.

    Raises:
      ConfigError: the file is missing, or holds something else.
    """
    if path is None:
        beside = [storage.as_path(directory).joinpath(*_BY_ITSELF) for directory in directories]
        path = next((str(found) for found in beside if found.exists()), None)
        if path is None:
            return {}
    try:
        content = json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        raise ConfigError(f"truth is {path!r}, which does not exist: it names a JSON file of uids") from None
    except ValueError as error:
        raise ConfigError(f"truth is {path!r}, which is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"truth is {path!r}, which holds {type(content).__name__}; it must map uids to {_allowed()}")
    for uid, kind in content.items():
        if kind not in KINDS:
            raise ConfigError(f"truth is {path!r}, which says {kind!r} of {uid}; it must be {_allowed()}")
    return content


def _allowed() -> str:
    return ", ".join(KINDS)
