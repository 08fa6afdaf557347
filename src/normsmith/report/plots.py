"""Charts as Plotly figures: plain dictionaries with named colours, a key, and their data as a table."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normsmith._text import number
from normsmith.report import palette
from normsmith.report.axes import log_axis
from normsmith.studies.results import Chart, Line

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'
SHOW_MARKERS_UP_TO = 40  # points in a line; beyond it symbols would run into each other


@dataclass(frozen=True)
class KeyEntry:
    """One line of a chart's key: how it is drawn, and what it is."""

    label: str
    colour: str
    dash: str
    symbol: str


@dataclass(frozen=True)
class Figure:
    """All that the page needs of one figure: the drawing, and the words and numbers that stand for it."""

    title: str
    description: str
    y_title: str
    spec: dict[str, Any]
    key: tuple[KeyEntry, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def chart_figure(chart: Chart) -> Figure:
    """Draw a chart: one line an arm, a band around it, a ring around each marked point."""
    bands, lines, rings = [], [], []
    for i, line in enumerate(chart.lines):
        style = line_style(i)
        points = _points(chart, line)
        bands.append(_band(chart, line, i))
        lines.append(_line(line, style, i, points))
        rings.append(_ring(line, style, i, points))
    spec = {
        "data": [trace for trace in (*bands, *lines, *rings) if trace["x"]],
        "layout": _layout(chart),
    }
    key = tuple(
        KeyEntry(line.label, style["color"], style["dash"], style["symbol"] if _has_markers(line) else "")
        for line, style in ((line, line_style(i)) for i, line in enumerate(chart.lines))
    )
    columns, rows = _table(chart)
    return Figure(chart.title, chart.description, chart.y_title, spec, key, columns, rows)


def plain(text: str, width: int = 0, lines: int = 2) -> str:
    """`text` for Plotly, which reads a small HTML: escaped, and wrapped to `lines` of `width` if given.

    >>> plain("a < b"), plain("one two three four", width=9, lines=1)
    ('a &lt; b', 'one two…')
    """
    if width:
        wrapped = textwrap.wrap(text, width, max_lines=lines, placeholder="…") or [""]
        return "<br>".join(_escape(part) for part in wrapped)
    return _escape(text)


def base_layout(height: int) -> dict[str, Any]:
    """What all figures share. Nothing can be dragged, so that a finger on a figure scrolls the page."""
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 20, "t": 8, "b": 8},
        "paper_bgcolor": "none",
        "plot_bgcolor": "none",
        "font": {"family": FONT, "size": 13, "color": "muted"},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "raised",
            "bordercolor": "rule",
            "font": {"family": FONT, "size": 13, "color": "ink"},
            "align": "left",
        },
    }


def base_axis() -> dict[str, Any]:
    """What all axes share."""
    return {
        "fixedrange": True,
        "automargin": True,
        "ticklabeloverflow": "allow",
        "gridcolor": "grid",
        "linecolor": "axis",
        "tickcolor": "axis",
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
    }


def line_style(i: int) -> dict[str, str]:
    """Colour, dash and symbol of the i-th line: 35 lines before colour and dash repeat together."""
    return {
        "color": f"series-{i % palette.SERIES}",
        "band": f"band-{i % palette.SERIES}",
        "dash": palette.DASHES[i % len(palette.DASHES)],
        "symbol": palette.SYMBOLS[i % len(palette.SYMBOLS)],
    }


def _escape(text: str) -> str:
    # A pair of dollars would be taken for a formula.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def _has_markers(line: Line) -> bool:
    return len(line.x) <= SHOW_MARKERS_UP_TO


def _drawable(value: float | None, log: bool) -> float | None:
    """The value as the axis can show it: rounded, and absent where it is not finite or has no logarithm."""
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return None
    return float(f"{value:.6g}")


def _points(chart: Chart, line: Line) -> list[tuple[float, float | None]]:
    xs = (_drawable(x, chart.log_x) for x in line.x)
    return [(x, _drawable(y, chart.log_y)) for x, y in zip(xs, line.y, strict=True) if x is not None]


def _line(
    line: Line, style: dict[str, str], i: int, points: Sequence[tuple[float, float | None]]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if _has_markers(line) else "lines",
        "name": plain(line.label, width=40),
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "marker": {"color": style["color"], "symbol": style["symbol"], "size": 7},
        "connectgaps": False,
        "meta": {"line": i},
        "hovertemplate": "<b>%{fullData.name}</b><br>%{y:.4~g} at %{x:.4~g}<extra></extra>",
    }


def _ring(
    line: Line, style: dict[str, str], i: int, points: Sequence[tuple[float, float | None]]
) -> dict[str, Any]:
    # Points are rounded as they are drawn, so marks are compared rounded too.
    marked = {_drawable(x, log=False) for x in line.marked}
    ringed = [(x, y) for x, y in points if x in marked and y is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for x, _ in ringed],
        "y": [y for _, y in ringed],
        "marker": {
            "color": style["color"],
            "symbol": "circle-open",
            "size": 15,
            "line": {"color": style["color"], "width": 2},
        },
        "meta": {"line": i},
        "hoverinfo": "skip",
    }


def _band(chart: Chart, line: Line, i: int) -> dict[str, Any]:
    """One closed outline for each stretch of x where both edges are known."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    stretch: list[tuple[float, float, float]] = []

    def close() -> None:
        if len(stretch) > 1:
            outline = [(x, high) for x, _, high in stretch] + [(x, low) for x, low, _ in reversed(stretch)]
            xs.extend([*(x for x, _ in outline), outline[0][0], None])
            ys.extend([*(y for _, y in outline), outline[0][1], None])
        stretch.clear()

    for x, low, high in zip(line.x, line.low, line.high, strict=False):
        edges = (_drawable(x, chart.log_x), _drawable(low, chart.log_y), _drawable(high, chart.log_y))
        if edges[0] is None or edges[1] is None or edges[2] is None:
            close()
        else:
            stretch.append((edges[0], edges[1], edges[2]))
    close()
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "fill": "toself",
        "fillcolor": line_style(i)["band"],
        "line": {"width": 0, "color": "none"},
        "meta": {"line": i},
        "hoverinfo": "skip",
    }


def _layout(chart: Chart) -> dict[str, Any]:
    layout = base_layout(height=330)
    x_axis = log_axis(x for line in chart.lines for x in line.x) if chart.log_x else {}
    edges = [
        v for line in chart.lines for part in (line.y, line.low, line.high) for v in part if v is not None
    ]
    y_axis = log_axis(edges) if chart.log_y else {}
    title = {"text": plain(chart.x_title, width=44), "standoff": 8, "font": {"size": 13, "color": "muted"}}
    layout["xaxis"] = {**base_axis(), "showline": True, "nticks": 7, "title": title, **x_axis}
    layout["yaxis"] = {**base_axis(), "ticks": "", "nticks": 6, **y_axis}
    return layout


def _table(chart: Chart) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """A row for each x of any line, a column for each line."""
    columns = (chart.x_title, *(line.label for line in chart.lines))
    cells = [dict(zip(line.x, _cells(line), strict=True)) for line in chart.lines]
    xs = sorted({x for line in chart.lines for x in line.x})
    rows = tuple((number(x), *(cell.get(x, "") for cell in cells)) for x in xs)
    return columns, rows


def _cells(line: Line) -> list[str]:
    missing: tuple[None, ...] = (None,) * len(line.x)
    edges = zip(line.low or missing, line.high or missing, strict=True)
    return [_cell(y, low, high) for y, (low, high) in zip(line.y, edges, strict=True)]


def _cell(y: float | None, low: float | None, high: float | None) -> str:
    if y is None or not math.isfinite(y):
        return "–"
    if low is None or high is None:
        return number(y)
    return f"{number(y)} ({number(low)} to {number(high)})"
