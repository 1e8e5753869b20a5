"""Markdown that shows text as it is: names, paths and licences come from outside, and a card is a page on the web.

Enters: any text. Leaves: Markdown in which nothing of it is markup, a link, HTML or a new line.
"""

import re
from collections.abc import Iterable, Sequence

from schemas.rejections import printable

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&$:@])")
_PIPE = re.compile(r"(?<!\\)\|")


def text(value: str) -> str:
    """Text in a paragraph or a table's cell: every character that could mean something is escaped."""
    return _MARKUP.sub(r"\\\1", printable(value))


def code(value: str) -> str:
    """Text in a code span: fenced by more backticks than it holds itself."""
    value = printable(value)
    fence = "`" * (max(map(len, re.findall("`+", value)), default=0) + 1)
    padding = " " if value.startswith("`") or value.endswith("`") or not value.strip() else ""
    return f"{fence}{padding}{value}{padding}{fence}"


def link(address: str) -> str:
    """A link to an address that was checked to be one."""
    return f"<{address}>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_escape_pipes(cell) for cell in cells)} |" for cells in lines)


def _escape_pipes(cell: str) -> str:
    """A pipe ends a cell, in a code span too, unless a backslash stands before it."""
    return _PIPE.sub(r"\\|", cell)
