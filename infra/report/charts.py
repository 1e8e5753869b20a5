"""Charts: Vega-Lite, drawn by Altair and vl-convert into static SVG while the page is made. No script gets onto it.

Enters: labelled numbers. Leaves: figures, each with its SVG, what it shows in words, and its numbers as a table.
Colours are CSS variables of the page, so one drawing serves light and dark; sides differ in dashes or shapes as well.
All texts pass `pictures.shown` first, and Vega escapes them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from infra.report import pictures
from infra.report.curves import Points
from infra.report.drift import Measure
from schemas.selections import QUANTILE_LEVELS

_WIDTH, _HEIGHT = 380, 240  # CSS pixels, as a phone shows them
_INK, _FAINT, _RULE = "var(--ink)", "var(--faint)", "var(--rule)"
# How each dataset, or whatever stands for it in a chart, is drawn: colour, dashes, shape.
_STYLES: dict[str, tuple[str, list[int], str]] = {
    "pool": ("var(--pool)", [1, 0], "circle"),
    "curated": ("var(--curated)", [1, 0], "diamond"),
    "uniform": ("var(--uniform)", [5, 3], "square"),
    "top_reference": ("var(--top)", [2, 2], "triangle-up"),
}
_ACCENT = _STYLES["curated"][0]
_LABEL_PIXELS = 120
_FEW = 4  # points, which a line alone hides
_ROW_HEIGHT, _AROUND = 30, 90  # of a chart of categories
_OUTER = re.compile(r"<svg [^>]*?width=\"([0-9.]+)\" height=\"([0-9.]+)\" viewBox=\"([^\"]+)\">")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, what it says, and its numbers."""

    title: str
    finding: str
    svg: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Series:
    """A curve, and the dataset whose style it is drawn in."""

    name: str
    style: str
    points: Points


def lines(title: str, finding: str, series: Sequence[Series], *, x: str, y: str, percent: bool = False) -> Figure:
    """Curves over steps. One of two points is a level, drawn across."""
    shown = [Series(pictures.shown(one.name), one.style, one.points) for one in series]
    values = [{"x": step, "y": value, "series": one.name} for one in shown for step, value in one.points]
    few = alt.OverlayMarkDef(size=36, filled=True) if len(values) <= _FEW * len(shown) else False
    chart = _base(values).mark_line(strokeWidth=1.8, point=few).encode(
        x=alt.X("x:Q", title=x, axis=_STEPS), y=_number("y", y, percent), **_lines_of(shown)
    )  # fmt: skip
    form = ".1%" if percent else ".4g"
    table = [
        [
            one.name,
            f"{one.points[0][0]:,.0f}",
            f"{one.points[0][1]:{form}}",
            f"{one.points[-1][0]:,.0f}",
            f"{one.points[-1][1]:{form}}",
        ]
        for one in shown
    ]
    return _figure(title, finding, chart, ["", f"first {x}", y, f"last {x}", y], table)


def distribution(measure: Measure, finding: str, titles: Mapping[str, str]) -> Figure:
    """How the rows of each dataset are spread over bins or categories."""
    names = {name: titles[name] for name in measure.counts}
    labels = [pictures.shown(label) for label in measure.labels]
    shares = {name: measure.shares(name) for name in names}
    if measure.edges is None:
        chart, height = _dots(labels, shares, names), _ROW_HEIGHT * len(labels) + _AROUND
    else:
        chart, height = _histogram(measure.edges, measure.unit, shares, names), _HEIGHT
    table = [[label, *(f"{shares[name][place]:.1%}" for name in names)] for place, label in enumerate(labels)]
    return _figure(measure.name.capitalize(), finding, chart, [measure.unit, *names.values()], table, height)


def bars(title: str, finding: str, counts: Sequence[tuple[str, int]], *, x: str, y: str) -> Figure:
    """Counts in ordered categories."""
    values = [{"x": pictures.shown(label), "y": count} for label, count in counts]
    axis = alt.Axis(labelAngle=0 if all(len(label) < 4 for label, _ in counts) else -45, labelOverlap=False)
    chart = _base(values).mark_bar(color=_ACCENT)
    chart = chart.encode(
        x=alt.X("x:N", title=x, sort=None, axis=axis, scale=alt.Scale(paddingInner=0.25)),
        y=_number("y", y, percent=False),
    )
    return _figure(title, finding, chart, [x, y], [[label, f"{count:,}"] for label, count in counts])


def fan(title: str, finding: str, quantiles: Sequence[tuple[int, list[float]]], *, x: str, y: str) -> Figure:
    """The spread of a distribution over steps: its median, and the middle half and nine tenths around it."""
    low, quarter, median, upper, high = (QUANTILE_LEVELS.index(q) for q in (0.05, 0.25, 0.5, 0.75, 0.95))
    values = [
        {"x": step, "low": q[low], "quarter": q[quarter], "median": q[median], "upper": q[upper], "high": q[high]}
        for step, q in quantiles
    ]
    base = _base(values).encode(x=alt.X("x:Q", title=x, axis=_STEPS))
    band = base.mark_area(color=_ACCENT, opacity=0.18)
    inner = base.mark_area(color=_ACCENT, opacity=0.3)
    chart = alt.layer(
        band.encode(y=_number("low", y, percent=False), y2="high:Q"),
        inner.encode(y="quarter:Q", y2="upper:Q"),
        base.mark_line(color=_ACCENT, strokeWidth=1.8).encode(y="median:Q"),
    )
    shown = [quantiles[0], quantiles[len(quantiles) // 2], quantiles[-1]] if len(quantiles) > 2 else quantiles
    table = [[f"{step:,}", *(f"{value:.3g}" for value in q)] for step, q in shown]
    return _figure(title, finding, chart, [x, *(f"{level:.0%}" for level in QUANTILE_LEVELS)], table)


def _histogram(edges: list[float], unit: str, shares: Mapping[str, Any], names: Mapping[str, str]) -> alt.Chart:
    curves = [
        Series(
            names[name], name, [(edge, float(found[min(place, len(found) - 1)])) for place, edge in enumerate(edges)]
        )
        for name, found in shares.items()
    ]
    values = [{"x": edge, "y": share, "series": one.name} for one in curves for edge, share in one.points]
    axis = alt.Axis(tickCount=6, grid=False, labelFlush=False)
    scale = alt.Scale(zero=False, nice=False)
    return _base(values).mark_line(strokeWidth=1.8, interpolate="step-after").encode(
        x=alt.X("x:Q", title=unit, axis=axis, scale=scale), y=_number("y", "share of rows", percent=True),
        **_lines_of(curves),
    )  # fmt: skip


def _dots(labels: list[str], shares: Mapping[str, Any], names: Mapping[str, str]) -> alt.Chart:
    values = [
        {"x": float(share), "y": label, "series": names[name]}
        for name, found in shares.items()
        for label, share in zip(labels, found, strict=True)
    ]
    titles = list(names.values())
    colours, _, shapes = zip(*(_STYLES[name] for name in names), strict=True)
    axis = alt.Axis(grid=True, labelLimit=_LABEL_PIXELS, domain=False)
    return _base(values).mark_point(filled=True, size=62, opacity=1).encode(
        x=alt.X("x:Q", title="share of rows", axis=alt.Axis(format="%", tickCount=5, labelFlush=False)),
        y=alt.Y("y:N", title=None, sort=labels, axis=axis),
        color=alt.Color("series:N", sort=titles, scale=alt.Scale(domain=titles, range=list(colours)), legend=_LEGEND),
        shape=alt.Shape("series:N", sort=titles, scale=alt.Scale(domain=titles, range=list(shapes)), legend=_LEGEND),
    )  # fmt: skip


_STEPS = alt.Axis(tickCount=5, format="~s", grid=False, labelFlush=False)
_LEGEND = alt.Legend(
    title=None, orient="top", direction="horizontal", columns=2, columnPadding=26, symbolStrokeWidth=2.2, symbolSize=90
)


def _lines_of(series: Sequence[Series]) -> dict[str, Any]:
    """Colour and dashes of every curve, and a legend where there is more than one."""
    names = [one.name for one in series]
    colours, dashes, _ = zip(*(_STYLES[one.style] for one in series), strict=True)
    legend = _LEGEND if len(names) > 1 else None
    return {
        "color": alt.Color("series:N", sort=names, scale=alt.Scale(domain=names, range=list(colours)), legend=legend),
        "strokeDash": alt.StrokeDash(
            "series:N", sort=names, scale=alt.Scale(domain=names, range=list(dashes)), legend=legend
        ),
    }


def _number(field: str, title: str, percent: bool) -> alt.Y:
    axis = alt.Axis(tickCount=5, format="%" if percent else "~s")
    return alt.Y(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(zero=percent))


def _base(values: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=values))


def _figure(
    title: str, finding: str, chart: Any, header: list[str], rows: list[list[str]], height: int = _HEIGHT
) -> Figure:
    return Figure(title=title, finding=finding, svg=_draw(chart, height), header=header, rows=rows)


def _draw(chart: Any, height: int) -> str:
    """SVG to stand in HTML: its size is a wish, and the page's style decides over its fonts."""
    spec = chart.properties(width=_WIDTH, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding"))
    drawn = vl_convert.vegalite_to_svg(spec.to_dict() | {"config": _CONFIG}, allowed_base_urls=[])
    outer = _OUTER.match(drawn)
    if outer is None:
        raise RuntimeError(f"vl-convert gave no SVG as expected: {drawn[:80]!r}")
    return f'<svg viewBox="{outer[3]}" width="{outer[1]}" height="{outer[2]}" aria-hidden="true">{drawn[outer.end() :]}'


_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "aria": False,
    "font": "sans-serif",
    "padding": {"left": 8, "right": 8, "top": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK, "titleColor": _FAINT, "domainColor": _FAINT, "tickColor": _FAINT, "gridColor": _RULE,
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelPadding": 4, "titlePadding": 6,
    },
    "axisY": {"domain": False, "ticks": False},
    "legend": {"labelColor": _INK, "labelFontSize": 12, "padding": 0, "offset": 6, "rowPadding": 2, "labelLimit": 170},
}  # fmt: skip
