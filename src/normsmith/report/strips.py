"""Strip charts: what each seed chose, a point for each, a row for each arm."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from markupsafe import Markup

from normsmith._text import exact, number
from normsmith.report import svg
from normsmith.report.axes import Axis, axis_of
from normsmith.report.palette import SERIES, SYMBOLS
from normsmith.report.plots import Figure, KeyEntry, Panel, axis_panel
from normsmith.studies.results import Strip, StripChart

_APART = 10  # pixels between points that lie at one place, where there is room
_HIGHEST = 60  # pixels of a row
_SAID = 6  # different values, at most, that are all said


def strip_figure(chart: StripChart) -> Figure:
    """Draw a strip chart: points that lie at one place are stacked, those of one kind together."""
    kinds = list(dict.fromkeys(kind for row in chart.rows for kind in row.kinds))
    axis = axis_of((x for row in chart.rows for x in row.x), log=chart.log_x, pad=0.08)
    styles = {kind: (f"series-{i % SERIES}", SYMBOLS[i % len(SYMBOLS)]) for i, kind in enumerate(kinds)}
    rows = tuple(Panel(row.label, _in_words(row), _row(row, axis, styles)) for row in chart.rows)
    return Figure(
        title=chart.title,
        description=chart.description,
        panels=(*rows, axis_panel(axis)),
        x_title=chart.x_title,
        key=tuple(KeyEntry(kind, colour, "", symbol) for kind, (colour, symbol) in styles.items()),
        columns=("arm", chart.x_title, *(("kind",) if kinds else ()), "seeds"),
        rows=tuple(line for row in chart.rows for line in _table(row, with_kinds=bool(kinds))),
    )


def _choices(row: Strip) -> Counter[tuple[float, str]]:
    """How many seeds made each choice, in the order of the axis."""
    kinds = row.kinds or ("",) * len(row.x)
    return Counter(sorted(zip(row.x, kinds, strict=True)))


def _in_words(row: Strip) -> str:
    counted = Counter(sorted(row.x))
    if row.kinds and len(set(row.kinds)) == len(row.x) > 1:  # a point for each kind
        return ", ".join(f"{kind} {number(x)}" for kind, x in zip(row.kinds, row.x, strict=True))
    if len(counted) > _SAID:
        return f"median {exact(median(row.x))}, from {exact(min(row.x))} to {exact(max(row.x))}"
    return ", ".join(
        f"{exact(x)} ({seeds})" if len(counted) > 1 else exact(x) for x, seeds in counted.items()
    )


def _row(row: Strip, axis: Axis, styles: Mapping[str, tuple[str, str]]) -> Markup:
    drawn = {choice: seeds for choice, seeds in _choices(row).items() if axis.shows(choice[0])}
    tallest = max(_heights(drawn).values(), default=1)
    apart = min(_APART, _HIGHEST / tallest)
    height = math.ceil(apart * (tallest - 1)) + 22
    return svg.drawing(
        height,
        svg.grid(axis, 0, height),
        svg.line((0, 1), (height - 4, height - 4), "base"),
        *_points(drawn, axis, styles, height - 12, apart),
    )


def _heights(drawn: Mapping[tuple[float, str], int]) -> Counter[float]:
    heights: Counter[float] = Counter()
    for (x, _), seeds in drawn.items():
        heights[x] += seeds
    return heights


def _points(
    drawn: Mapping[tuple[float, str], int],
    axis: Axis,
    styles: Mapping[str, tuple[str, str]],
    lowest: float,
    apart: float,
) -> Iterator[Markup]:
    stacked: Counter[float] = Counter()
    for (x, kind), seeds in drawn.items():
        colour, symbol = styles.get(kind, ("ink", "circle"))
        hint = ", ".join(filter(None, (exact(x), kind, f"{seeds} of the seeds" if seeds > 1 else "one seed")))
        for _ in range(seeds):
            yield svg.mark(symbol, axis.share(x), lowest - apart * stacked[x], colour, hint)
            stacked[x] += 1


def _table(row: Strip, *, with_kinds: bool) -> Sequence[tuple[str, ...]]:
    return [
        (row.label, exact(x), *((kind,) if with_kinds else ()), str(seeds))
        for (x, kind), seeds in _choices(row).items()
    ]
