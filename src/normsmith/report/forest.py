"""Forest plots: each paired effect with its seeds, its estimate and 95 % interval, and its margin.

Rows are laid out in pixels (one unit of the y axis is one pixel), with the label above its interval rather
than beside it: the same figure reads well on a telephone and on paper.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import Any

from normsmith import _text
from normsmith.report.axes import ratio_ticks, round_ticks
from normsmith.report.palette import VERDICT_COLOURS
from normsmith.report.plots import Figure, base_axis, base_layout, plain
from normsmith.studies import notation
from normsmith.studies.results import Effect, Verdict
from normsmith.studies.statistics import Interval

_LINE = 17  # pixels of a line of the label
_INTERVAL = 16  # from the label to the interval
_SEEDS = 14  # from the interval to the seeds
_GAP = 22  # from the seeds to the next label
_SYMBOLS = {
    Verdict.HOLDS: "circle",
    Verdict.NOT_HERE: "circle",
    Verdict.REVERSED: "diamond",
    Verdict.INCONCLUSIVE: "square",
    Verdict.NOT_JUDGED: "square",
}
_FILLED = {Verdict.HOLDS, Verdict.REVERSED}


def forest_figures(effects: Sequence[Effect]) -> list[Figure]:
    """One figure for each axis that `effects` need, in the order they come."""
    order = {_axis_of(e): i for i, e in reversed(list(enumerate(effects)))}
    together = sorted(effects, key=lambda e: order[_axis_of(e)])
    return [_figure(list(group)) for _, group in groupby(together, key=_axis_of)]


def _axis_of(effect: Effect) -> tuple[str, str, bool]:
    return effect.scale, effect.unit, _points_left(effect)


def _points_left(effect: Effect) -> bool:
    """Whether the claim lies to the left."""
    return notation.position(effect, 1.0) < 0


def _figure(effects: list[Effect]) -> Figure:
    low, high = _range(effects)
    rows = list(_rows(effects, (low, high)))
    bottom = rows[-1].seeds + _SEEDS
    layout = base_layout(height=bottom + 64)
    layout["xaxis"] = {**base_axis(), **_x_axis(effects, low, high)}
    layout["yaxis"] = {"range": [bottom, 0], "visible": False, "fixedrange": True}
    layout["annotations"] = [_label(row) for row in rows]
    layout["shapes"] = [
        _vertical(0.0, 0, bottom, color="axis", width=1.5),
        *(shape for row in rows for shape in _margins(row)),
    ]
    spec = {"data": [trace for row in rows for trace in _traces(row)], "layout": layout}
    columns, cells = _table(effects)
    title = ": ".join(filter(None, ("Paired effects", _measure(effects[0]))))
    return Figure(title, _description(effects), "", spec, (), columns, cells)


def _measure(effect: Effect) -> str:
    if effect.scale == "difference":
        return effect.unit
    return f"ratio of {effect.unit}" if effect.unit else "ratio"


class _Row:
    """Where one effect is drawn: in pixels from the top, between the left and right edges of the axis."""

    def __init__(self, effect: Effect, top: int, edges: tuple[float, float]) -> None:
        self.effect = effect
        self.edges = edges
        self.name = plain(effect.name, width=44)
        self.top = top
        self.interval = top + _LINE * (self.name.count("<br>") + 2) + _INTERVAL
        self.seeds = self.interval + _SEEDS


def _rows(effects: Sequence[Effect], edges: tuple[float, float]) -> Iterator[_Row]:
    top = 4
    for effect in effects:
        row = _Row(effect, top, edges)
        yield row
        top = row.seeds + _GAP


def _range(effects: Sequence[Effect]) -> tuple[float, float]:
    marks = [0.0]
    for effect in effects:
        own = [*chain.from_iterable(effect.effects), *effect.median, *effect.interval, effect.margin]
        own += [-effect.margin] if effect.kind == "equivalence" else []
        marks += [notation.position(effect, mark) for mark in own]
    finite = [mark for mark in marks if math.isfinite(mark)]
    low, high = min(finite), max(finite)
    pad = 0.06 * (high - low) or 0.1
    return low - pad, high + pad


def _direction(effects: Sequence[Effect]) -> str:
    """Which way the claim lies, and what a triangle is, where there are some."""
    claimed = f"farther {'left' if _points_left(effects[0]) else 'right'}: more as claimed"
    return f"{claimed}; triangles: so far at least" if any(effect.censored for effect in effects) else claimed


def _x_axis(effects: Sequence[Effect], low: float, high: float) -> dict[str, Any]:
    effect = effects[0]
    # Ratios arrive as logarithms: a linear axis with ratios for labels is a log axis.
    if effect.scale == "ratio":
        ratios = ratio_ticks(low, high)
        ticks, labels = [math.log(ratio) for ratio in ratios], [f"{_text.exact(r)}×" for r in ratios]
    else:
        ticks = round_ticks(low, high)
        labels = [("+" if tick > 0 else "") + _text.exact(tick) for tick in ticks]
    title = [
        plain(_measure(effect), width=44, lines=1),
        _direction(effects),
    ]
    return {
        "range": [low, high],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": labels,
        "title": {
            "text": "<br>".join(filter(None, title)),
            "standoff": 8,
            "font": {"size": 13, "color": "muted"},
        },
    }


def _label(row: _Row) -> dict[str, Any]:
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": row.top,
        "yanchor": "top",
        "align": "left",
        "showarrow": False,
        "borderpad": 0,
        "text": f"<b>{row.name}</b><br>{plain(notation.estimate_and_interval(row.effect), width=44, lines=1)}",
        "font": {"size": 13, "color": "ink"},
        "bgcolor": "paper",
    }


def _vertical(x: float, top: int, bottom: int, **line: Any) -> dict[str, Any]:
    return {"type": "line", "x0": x, "x1": x, "y0": top, "y1": bottom, "layer": "below", "line": line}


def _margins(row: _Row) -> list[dict[str, Any]]:
    effect, top, bottom = row.effect, row.interval - 11, row.seeds + 7
    ends = [effect.margin] if effect.kind == "superiority" else [-effect.margin, effect.margin]
    ends = [notation.position(effect, end) for end in ends]
    lines = [_vertical(end, top, bottom, color="ink", width=1.5, dash="dot") for end in ends]
    if effect.kind == "superiority":
        return lines
    zone = {
        "type": "rect",
        "x0": -effect.margin,
        "x1": effect.margin,
        "y0": top,
        "y1": bottom,
        "layer": "below",
        "fillcolor": "grid",
        "line": {"width": 0},
    }
    return [zone, *lines]


def _traces(row: _Row) -> list[dict[str, Any]]:
    effect = row.effect
    colour = VERDICT_COLOURS[effect.verdict]
    shared = {"type": "scatter", "cliponaxis": False}
    known = [_known(effect, interval) for interval in effect.effects]
    return [
        {
            **shared,
            "mode": "markers",
            "x": [_mark(effect, value) for value, _ in known],
            "y": [row.seeds] * len(known),
            "marker": {"color": colour, "size": 8, "opacity": 0.4, "symbol": [symbol for _, symbol in known]},
            "text": [
                f"seed {seed}: {notation.span(effect, interval)}"
                for seed, interval in zip(effect.seeds, effect.effects, strict=True)
            ],
            "hovertemplate": "%{text}<extra></extra>",
        },
        *_interval(row, shared, colour),
        {
            **shared,
            "mode": "markers",
            "x": [_mark(effect, _known(effect, effect.median)[0])],
            "y": [row.interval],
            "marker": {
                "color": colour if effect.verdict in _FILLED else "paper",
                "size": 12,
                "opacity": 1,
                "symbol": _SYMBOLS[effect.verdict],
                "line": {"color": colour, "width": 2.5},
            },
            "text": [f"{plain(notation.estimate_and_interval(effect))}: {effect.verdict.value}"],
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]


def _interval(row: _Row, shared: dict[str, Any], colour: str) -> list[dict[str, Any]]:
    """The line of an interval; an open end runs to the edge of the figure and has an arrow."""
    effect, edges = row.effect, row.edges
    left, right = sorted(notation.position(effect, end) for end in effect.interval)
    ends = [_rounded(max(left, edges[0])), _rounded(min(right, edges[1]))]
    line = {
        **shared,
        "mode": "lines",
        "x": ends,
        "y": [row.interval, row.interval],
        "line": {"color": colour, "width": 3},
        "hoverinfo": "skip",
    }
    open_ends = [
        (end, symbol)
        for end, true, symbol in zip(ends, (left, right), ("triangle-left", "triangle-right"), strict=True)
        if math.isinf(true)
    ]
    if not open_ends:
        return [line]
    arrows = {
        **shared,
        "mode": "markers",
        "x": [end for end, _ in open_ends],
        "y": [row.interval] * len(open_ends),
        "marker": {"color": colour, "size": 10, "symbol": [symbol for _, symbol in open_ends]},
        "hoverinfo": "skip",
    }
    return [line, arrows]


def _known(effect: Effect, interval: Interval) -> tuple[float, str]:
    """The value that is known of an effect, and the symbol that says on which side it is open."""
    low, high = interval
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2, "circle"
    if math.isinf(low) and math.isinf(high):
        return 0.0, "circle-open"
    value, side = (low, 1.0) if math.isfinite(low) else (high, -1.0)
    return value, "triangle-right" if notation.position(effect, side) > 0 else "triangle-left"


def _mark(effect: Effect, value: float) -> float | None:
    return _rounded(notation.position(effect, value)) if math.isfinite(value) else None


def _rounded(place: float) -> float:
    """As many digits as a figure can show: a report holds many places."""
    return float(f"{place:.6g}")


def _description(effects: Sequence[Effect]) -> str:
    """The figure in words, for those who do not see it."""
    rows = "; ".join(f"{e.name}: {notation.estimate_and_interval(e)}, {e.verdict.value}" for e in effects)
    what = "Ratio of treatment to control" if effects[0].scale == "ratio" else "Treatment minus control"
    return f"{what}, with its {notation.interval_name(effects)}. {rows}."


def _table(effects: Sequence[Effect]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """A row for each seed, a column for each effect."""
    cells = [
        {
            seed: notation.span(effect, interval)
            for seed, interval in zip(effect.seeds, effect.effects, strict=True)
        }
        for effect in effects
    ]
    seeds = sorted({seed for effect in effects for seed in effect.seeds})
    columns = ("seed", *(effect.name for effect in effects))
    return columns, tuple((str(seed), *(cell.get(seed, "") for cell in cells)) for seed in seeds)
