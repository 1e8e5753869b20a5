"""Text on a card is text, whatever it holds: rendered, it reads as it was, and nothing of it is markup."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from beam_pipelines import markdown
from schemas.rejections import printable

HOSTILE = [
    "plain words, and more.",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[a](javascript:alert(1)) ![b](http://x/y) <http://x> https://x www.x.org a@b.org",
    "# no heading\n- no item\n1. no item\n> no quote\n\n---\n",
    "`code` ``more`` *a* _b_ **c** ~~d~~ | a | cell | \\| \\ &lt; &amp; $x$ :smile:",
    "`",
    "ends with ``",
    "an emoji \U0001f600, \u202eturned\u202c, a lone \ud800 and a \x00",
    "1) [ ] {x} +y !z",
]


def rendered(page: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(page)


@pytest.mark.parametrize("value", HOSTILE)
def test_text_reads_as_it_was(value):
    page = rendered(f"Before {markdown.text(value)} after")
    assert re.findall(r"<(/?\w+)", page) == ["p", "/p"]
    assert html.unescape(page) == f"<p>Before {printable(value)} after</p>\n"


@pytest.mark.parametrize("value", HOSTILE)
def test_code_reads_as_it_was(value):
    page = rendered(f"Before {markdown.code(value)} after")
    assert re.findall(r"<(/?\w+)", page) == ["p", "code", "/code", "/p"]
    assert html.unescape(page) == f"<p>Before <code>{printable(value)}</code> after</p>\n"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_cell_stays_one_cell(value):
    cells = [markdown.text(value), markdown.code(value), "last"]
    page = rendered(markdown.table(["a", "b", "c"], [cells]))
    found = re.findall(r"<td>(.*?)</td>", page)
    assert len(found) == 3
    assert html.unescape(found[0]) == printable(value)
    # In a table a backslash before a pipe in a code span is not shown.
    assert html.unescape(found[1]) == f"<code>{printable(value)}</code>".replace("\\|", "|")
    assert found[2] == "last"
