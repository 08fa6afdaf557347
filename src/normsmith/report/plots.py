"""Charts as figures: lines with bands in stretching SVG, a key, and their data as a table."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from normsmith._text import exact, number
from normsmith.report import palette, svg
from normsmith.report.axes import Axis, axis_of, share_axis
from normsmith.studies.results import Chart, Line

SHOW_MARKERS_UP_TO = 40  # points in a line; beyond it symbols would run into each other
_FEWEST = 2  # ticks of a stretched axis, which has them at fixed places only, that would not be enough
_HEIGHT = 290
_LETTER = 7.5  # pixels that a character of a label takes

Point = tuple[float, float]


@dataclass(frozen=True)
class KeyEntry:
    """One line of a figure's key: how it is drawn, and what it is."""

    label: str
    colour: str
    dash: str
    symbol: str


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure, with what is written above it."""

    label: str
    note: str
    drawing: Markup
    class_: str = ""


@dataclass(frozen=True)
class Figure:
    """All that the page needs of one figure: the drawing, and the words and numbers that stand for it.

    Attributes:
        title, description: in words.
        panels: drawings over one axis, from top to bottom.
        key: what its colours and shapes are; with `pressable`, each hides and shows the line of its place.
        columns, rows: its data.
        gutter: pixels on the left, for the labels of a vertical axis.
    """

    title: str
    description: str
    panels: tuple[Panel, ...]
    x_title: str
    key: tuple[KeyEntry, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    y_title: str = ""
    gutter: int = 0
    pressable: bool = False


def axis_panel(axis: Axis) -> Panel:
    """The last panel of a figure: the labels of the axis that its panels share."""
    return Panel("", "", svg.drawing(24, svg.labels(axis, 16)))


def chart_figure(chart: Chart, *, shares: bool = False, target: float | None = None) -> Figure:
    """Draw a chart: one line an arm, a band around it.

    Args:
        chart: what to draw.
        shares: that its values are shares of 1; their axis is then stretched towards 1, where that has ticks enough.
        target: a value to be reached, drawn across.
    """
    x_axis = axis_of((x for line in chart.lines for x in line.x), log=chart.log_x, pad=0.02)
    edges = [
        v for line in chart.lines for part in (line.y, line.low, line.high) for v in part if v is not None
    ]
    stretched = shares and all(0 <= edge <= 1 for edge in edges) and len(share_axis(edges).ticks) > _FEWEST
    y_axis = share_axis(edges) if stretched else axis_of(edges, log=chart.log_y)
    plane = _Plane(x_axis, y_axis)
    styles = [line_style(i) for i in range(len(chart.lines))]
    key = [
        KeyEntry(line.label, style["colour"], style["dash"], style["symbol"] if _has_markers(line) else "")
        for line, style in zip(chart.lines, styles, strict=True)
    ]
    parts = [
        svg.element("g", *_parts(plane, line, style), class_=f"line line-{i} {style['colour']}")
        for i, (line, style) in enumerate(zip(chart.lines, styles, strict=True))
    ]
    columns, rows = _table(chart)
    across = [] if target is None else list(_target(plane, target))
    if across:
        key.append(KeyEntry(f"target {exact(target or 0.0)}", "muted", "", "target"))
    return Figure(
        title=chart.title,
        description=chart.description,
        panels=(Panel("", "", svg.drawing(_HEIGHT + 24, *_frame(plane), *across, *parts)),),
        x_title=chart.x_title,
        y_title=f"{chart.y_title} (the scale is stretched towards 1)" if stretched else chart.y_title,
        key=tuple(key),
        columns=columns,
        rows=rows,
        gutter=math.ceil(_LETTER * max((len(label) for _, label in y_axis.ticks), default=0)) + 10,
        pressable=True,
    )


def line_style(i: int) -> dict[str, str]:
    """Colour, dash and symbol of the i-th line: 35 lines before colour and dash repeat together."""
    return {
        "colour": f"series-{i % palette.SERIES}",
        "dash": palette.DASHES[i % len(palette.DASHES)],
        "symbol": palette.SYMBOLS[i % len(palette.SYMBOLS)],
    }


@dataclass(frozen=True)
class _Plane:
    """Two axes: numbers → a share of the width and a pixel from the top."""

    x: Axis
    y: Axis

    def point(self, x: float, y: float | None) -> Point | None:
        """Where a pair of numbers is drawn; nowhere if one is not finite or has no logarithm."""
        if y is None or not (self.x.shows(x) and self.y.shows(y)):
            return None
        return self.x.share(x), _HEIGHT * (1 - self.y.share(y))


def _frame(plane: _Plane) -> Iterator[Markup]:
    for share, label in plane.y.ticks:
        y = round(_HEIGHT * (1 - share), 1)
        yield svg.line((0, 1), (y, y), "grid")
        yield svg.element("text", label, x=-8, y=y + 4, class_="tick end")
    yield svg.line((0, 1), (_HEIGHT, _HEIGHT), "base")
    yield svg.labels(plane.x, _HEIGHT + 18)


def _target(plane: _Plane, target: float) -> Iterator[Markup]:
    """A line across at the value that is to be reached, if the axis has it."""
    share = plane.y.share(target)
    if 0 <= share <= 1:
        y = round(_HEIGHT * (1 - share), 1)
        yield svg.line((0, 1), (y, y), "margin")


def _parts(plane: _Plane, line: Line, style: dict[str, str]) -> Iterator[Markup]:
    points = [plane.point(x, y) for x, y in zip(line.x, line.y, strict=True)]
    yield svg.path(_bands(plane, line), _HEIGHT, close=True, class_="band")
    yield svg.path(_stretches(points), _HEIGHT, class_=f"stroke {style['dash']}")
    for x, y, point in zip(line.x, line.y, points, strict=True):
        if point is None or y is None:
            continue
        if _has_markers(line):
            yield svg.mark(style["symbol"], *point, "point", f"{line.label}: {number(y, 4)} at {exact(x)}")


def _stretches(points: list[Point | None]) -> Iterator[list[Point]]:
    """Points that follow each other without a gap."""
    stretch: list[Point] = []
    for point in [*points, None]:
        if point is not None:
            stretch.append(point)
        elif stretch:
            yield stretch
            stretch = []


def _bands(plane: _Plane, line: Line) -> Iterator[list[Point]]:
    """One outline for each stretch of x where both edges are known."""
    edges = [
        (plane.point(x, low), plane.point(x, high))
        for x, low, high in zip(line.x, line.low, line.high, strict=False)
    ]
    whole = [edge if None not in edge else (None, None) for edge in edges]
    lows, highs = (list(_stretches([edge[side] for edge in whole])) for side in (0, 1))
    for low, high in zip(lows, highs, strict=True):
        if len(low) > 1:
            yield [*high, *reversed(low)]


def _has_markers(line: Line) -> bool:
    return len(line.x) <= SHOW_MARKERS_UP_TO


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
