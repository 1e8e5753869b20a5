"""Quotas: which share of a dataset rows of one language, or of one source, may take at most.

Enters: shares by key, and each row's language or source. Leaves: the group that a row belongs to, and whether its group
has room. A row's group is the longest key that its value begins with: of languages whole subtags (RFC 4647, basic
filtering: `en` takes in `en-GB`, not `enm`), of sources any beginning (`cc12m/`). All rows that no key takes in are one
group, `*`. A group without a share may take all.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

import tyro

from schemas.errors import ConfigError

QuotaBy = Literal["language", "source"]
OTHERS = "*"
_DIGITS = 9  # of a product of share and budget, which is then cut to whole rows

# One word on the command line, as templates of jobs pass it: --quotas='{"en": 0.5, "*": 0.1}'
Shares = Annotated[
    dict[str, float],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: json.loads(words[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]


def check_quotas(by: QuotaBy | None, shares: Mapping[str, float]) -> None:
    """Checks the settings of a job.

    Raises:
      ConfigError: one is there without the other, or a share is none.
    """
    if not isinstance(shares, Mapping):
        raise ConfigError(f"quotas is {shares!r}; it must map values to shares, as in " """'{"en": 0.5, "*": 0.1}'""")
    if (by is None) != (not shares):
        raise ConfigError(
            f"quota_by is {by!r} and quotas are {dict(shares)}: give both or none, for instance --quota_by=language "
            """--quotas='{"en": 0.5, "*": 0.1}'"""
        )
    for key, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"quotas has {share!r} for {key!r}; a share of the budget lies in [0, 1]")


def group(by: QuotaBy, shares: Mapping[str, float], value: str) -> str:
    """Returns the group of a row: the longest key that its language or source begins with, or `*`."""

    def takes_in(key: str) -> bool:
        if by == "source":
            return value.startswith(key)
        return value.lower() == key.lower() or value.lower().startswith(f"{key.lower()}-")

    return max((key for key in shares if key != OTHERS and takes_in(key)), key=len, default=OTHERS)


class Quotas:
    """How many rows of each group there is room for, while a dataset of `budget` rows is filled."""

    def __init__(self, shares: Mapping[str, float], budget: int):
        self._room = {key: math.floor(round(share * budget, _DIGITS)) for key, share in shares.items()}
        self._taken = Counter[str]()
        self.passed = 0
        """rows that were passed over because their group was full"""

    def admits(self, group: str) -> bool:
        """Whether a group has room; if not, its row is counted as passed over."""
        if self._taken[group] < self._room.get(group, self._taken[group] + 1):
            return True
        self.passed += 1
        return False

    def take(self, group: str) -> None:
        """Counts a row that is taken."""
        self._taken[group] += 1
