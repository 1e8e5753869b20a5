"""`superbatch report`: one page for a round, or for two rounds side by side.

Enters: the directory of a round, finished or not. Leaves: one HTML file that needs no network, no script and no other
file, so that it can be mailed, archived and printed.
"""

import importlib.util
from dataclasses import dataclass
from typing import Annotated

import tyro

from schemas import storage
from schemas.errors import ConfigError

FILE_NAME = "report.html"
_MOST_PICTURES = 200  # in a grid: more would be a page that no phone opens
_NEEDS = ("altair", "jinja2", "vl_convert")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML page that shows what a round kept and dropped, and how it went; with two rounds, compare them.

    The page has pictures with their captions, stage counts, curves, distributions and their drift, rejections and
    lineage. It needs no network and holds no script. A round that is not finished is reported as far as it got.
    """

    directory: Annotated[str, tyro.conf.Positional]
    """of the round: the `output` of the file that `superbatch round` ran, or round-2 and so on below it"""
    other: Annotated[str | None, tyro.conf.Positional] = None
    """a second round to compare the first with"""
    output: str | None = None
    """file to write, replaced if it is there; report.html in the round's directory if not given (with two rounds:
    comparison.html in the first one's)"""
    truth: str | None = None
    """JSON file {uid: "matched", "mismatched" or "boilerplate"} to score with; if not given, sources/truth.json in the
    round's directory, or above round-2 and so on, where there is one. No stage reads it"""
    thumbnails: int = 18
    """pictures in a grid, at most; a page has about twenty grids"""
    sources: bool = False
    """open the raw source that the round's manifest names, wherever it lies, for pictures of what was rejected. If not
    given, only one below the round's directory is opened: a round that somebody sent may name any file or bucket"""
    rows: int = 50_000
    """rows of each dataset whose captions, languages, sizes and sources are counted: the first, a random sample"""

    def __post_init__(self) -> None:
        if not 1 <= self.thumbnails <= _MOST_PICTURES:
            raise ConfigError(f"thumbnails is {self.thumbnails}; it must lie in [1, {_MOST_PICTURES}]")
        if self.rows < 1:
            raise ConfigError(f"rows is {self.rows}; it must be at least 1")
        if self.output is not None and not self.output.endswith((".html", ".htm")):
            raise ConfigError(f"output is {self.output!r}; it names the page's file, such as {FILE_NAME}")


@dataclass(frozen=True)
class Written:
    """A page that was written."""

    path: str
    size: int
    pictures: int
    findings: int
    missing: int

    def __str__(self) -> str:
        says = f"report {self.path}: {self.pictures} pictures, {self.size / 1e6:.1f} MB"
        if self.missing:
            says += f", {self.missing} {'stages' if self.missing > 1 else 'stage'} missing"
        return f"{says}. IT DOES NOT ADD UP: {self.findings} findings on the page" if self.findings else says


def run(config: ReportConfig) -> Written:
    """Writes the page.

    Raises:
      DataError: a directory is no round.
      ConfigError: the truth is none, or the libraries that draw are not installed.
    """
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{', '.join(missing)} not installed: pip install 'superbatch[report]'")
    from infra.report import collect, compare, page

    limits = collect.Limits(pictures=config.thumbnails, rows=config.rows, sources=config.sources)
    found = [collect.collect(config.directory, config.truth, limits)]
    if config.other is not None:
        found.append(collect.collect(config.other, config.truth, limits))
        comparison = compare.compare(*found, most=config.thumbnails)
        content, name = compare.render(comparison), "comparison.html"
    else:
        content, name = page.render(found[0]), FILE_NAME
    path = config.output or str(storage.as_path(found[0].layout.directory) / name)
    written = content.encode()
    storage.replace(path, written)
    return Written(
        path, len(written), content.count("<img "), sum(len(one.accounts.findings) for one in found),
        sum(len(one.layout.missing) for one in found),
    )  # fmt: skip
