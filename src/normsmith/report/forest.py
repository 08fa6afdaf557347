"""Forest plots: each paired effect with its seeds, its estimate and 95 % interval, and its margin.

A row is a drawing with its label above rather than beside it: the same figure reads well on a telephone and on paper.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby

from markupsafe import Markup

from normsmith import _text
from normsmith.report import svg
from normsmith.report.axes import Axis, ratio_ticks, round_ticks
from normsmith.report.palette import VERDICT_COLOURS
from normsmith.report.plots import Figure, KeyEntry, Panel, axis_panel
from normsmith.studies import notation
from normsmith.studies.results import Effect, Verdict
from normsmith.studies.statistics import Interval

_HEIGHT = 40  # pixels of a row
_INTERVAL, _SEEDS = 13, 29  # where they are drawn in it
_APART, _DEEPEST = 6, 36  # pixels between seeds that lie at one place, where there is room, and in all
_PLACE = 100  # of so many places of an axis, seeds at one would hide each other
_MANY_TIMES = 8.0  # rows of effects so many times as large as others would press those flat


def forest_figures(effects: Sequence[Effect], words: Mapping[str, str] | None = None) -> list[Figure]:
    """One figure for each axis that `effects` need, in the order they come; those of one title are counted.

    Args:
        effects: what is drawn.
        words: by the name of an effect, what is said in place of its verdict.
    """
    said = {effect.name: effect.verdict.value for effect in effects} | dict(words or {})
    order = {_axis_of(e): i for i, e in reversed(list(enumerate(effects)))}
    together = sorted(effects, key=lambda e: order[_axis_of(e)])
    groups = (list(group) for _, group in groupby(together, key=_axis_of))
    figures = [_figure(rows, said) for group in groups for rows in _of_one_size(group)]
    titles = [figure.title for figure in figures]
    return [
        replace(figure, title=f"{title} ({titles[: i + 1].count(title)} of {titles.count(title)})")
        if titles.count(title) > 1
        else figure
        for i, (title, figure) in enumerate(zip(titles, figures, strict=True))
    ]


def _axis_of(effect: Effect) -> tuple[str, str, bool, str]:
    return effect.scale, effect.unit, points_left(effect), effect.kind


def _of_one_size(effects: Sequence[Effect]) -> list[list[Effect]]:
    """Those that can share an axis without some being pressed flat, each group in the order given."""
    parts: list[list[Effect]] = []
    for effect in sorted(effects, key=_extent):
        if not parts or _extent(effect) > _MANY_TIMES * _extent(parts[-1][0]):
            parts.append([])
        parts[-1].append(effect)
    in_order = [[effect for effect in effects if effect in part] for part in parts]
    return sorted(in_order, key=lambda part: effects.index(part[0]))


def _extent(effect: Effect) -> float:
    """How far from no effect a row reaches."""
    marks = (*chain.from_iterable(effect.effects), effect.margin)
    return max(abs(mark) for mark in marks if math.isfinite(mark))


def points_left(effect: Effect) -> bool:
    """Whether the claim lies to the left, where an effect is drawn as measured."""
    return notation.position(effect, 1.0) < 0


def _figure(effects: list[Effect], said: Mapping[str, str]) -> Figure:
    axis = _axis(effects)
    panels = [
        Panel(
            effect.name,
            notation.estimate_and_interval(effect),
            _row(effect, axis, said[effect.name]),
            _class(effect),
        )
        for effect in effects
    ]
    columns, rows = _table(effects)
    return Figure(
        title=": ".join(filter(None, ("Paired effects", _measure(effects[0])))),
        description=_description(effects, said),
        panels=(*panels, axis_panel(axis)),
        x_title=" · ".join(filter(None, (_measure(effects[0]), *_direction(effects)))),
        key=_key(effects, said),
        columns=columns,
        rows=rows,
    )


def _class(effect: Effect) -> str:
    return "beside" if effect.verdict is Verdict.NOT_JUDGED else ""


def _measure(effect: Effect) -> str:
    if effect.scale == "difference":
        return effect.unit
    return f"ratio of {effect.unit}" if effect.unit else "ratio"


def _axis(effects: Sequence[Effect]) -> Axis:
    marks = [0.0]
    for effect in effects:
        own = [*chain.from_iterable(effect.effects), *effect.median, *effect.interval, effect.margin]
        own += [-effect.margin] if effect.kind == "equivalence" else []
        marks += [notation.position(effect, mark) for mark in own]
    finite = [mark for mark in marks if math.isfinite(mark)]
    pad = 0.06 * (max(finite) - min(finite)) or 0.1
    low, high = min(finite) - pad, max(finite) + pad
    # Ratios arrive as logarithms: a linear axis with ratios for labels is a log axis.
    if effects[0].scale == "ratio":
        named = [(math.log(ratio), f"{_text.exact(ratio)}×") for ratio in ratio_ticks(low, high)]
    else:
        named = [(tick, ("+" if tick > 0 else "") + _text.exact(tick)) for tick in round_ticks(low, high)]
    return Axis(low, high, log=False, ticks=tuple(((at - low) / (high - low), name) for at, name in named))


def _direction(effects: Sequence[Effect]) -> Iterator[str]:
    """Which way the claim lies, and what a triangle is, where there are some."""
    if effects[0].kind == "equivalence":
        yield f"nearer to {'1×' if effects[0].scale == 'ratio' else '0'}: more as claimed"
    else:
        yield f"farther {'left' if points_left(effects[0]) else 'right'}: more as claimed"
    if any(effect.censored for effect in effects):
        yield "triangles: a seed whose effect is at least so large"


def _key(effects: Sequence[Effect], said: Mapping[str, str]) -> tuple[KeyEntry, ...]:
    """What is drawn, and the colours and shapes of the verdicts that are there."""
    verdicts = {said[effect.name]: VERDICT_COLOURS[effect.verdict] for effect in effects}
    return (
        KeyEntry(f"estimate, {notation.interval_name(effects)}", "muted", "solid", "circle"),
        KeyEntry("one seed each", "muted faint", "", "circle"),
        KeyEntry("margin, and the side of the claim", "muted", "", "margin"),
        KeyEntry("no effect", "muted", "", "zero"),
        *(KeyEntry(verdict, colour, "", colour) for verdict, colour in verdicts.items()),
    )


def _row(effect: Effect, axis: Axis, said: str) -> Markup:
    colour = VERDICT_COLOURS[effect.verdict]
    margin = notation.position(effect, effect.margin)
    seeds, depth = _seeds(effect, axis, colour)
    height = _HEIGHT + depth
    return svg.drawing(
        height,
        *backdrop(axis, margin, height, both=effect.kind == "equivalence"),
        *seeds,
        *interval(axis, sorted(notation.position(effect, end) for end in effect.interval), _INTERVAL, colour),
        svg.mark(
            colour, _at(effect, axis, known(effect.median)[0]), _INTERVAL, colour, in_words(effect, said)
        ),
    )


def in_words(effect: Effect, said: str = "") -> str:
    """What a row says, where the pointer rests on its estimate; its verdict unless something else is said of it."""
    return f"{effect.name}: {notation.estimate_and_interval(effect)}: {said or effect.verdict.value}"


def backdrop(axis: Axis, margin: float, height: int, *, both: bool) -> Iterator[Markup]:
    """The side of the claim, the grid, "no effect" and the margin; an equivalence lies between `both` margins."""
    margins = sorted(axis.share(end) for end in ((-margin, margin) if both else (margin,)))
    claimed = (margins[0], margins[-1]) if both else (0.0, margins[0]) if margin < 0 else (margins[0], 1.0)
    zero = axis.share(0.0)
    yield svg.area(claimed, (0, height), "claimed")
    yield svg.grid(axis, 0, height)
    yield svg.line((zero, zero), (0, height), "zero")
    for share in margins:
        yield svg.line((share, share), (0, height), "margin")


def _seeds(effect: Effect, axis: Axis, colour: str) -> tuple[list[Markup], int]:
    """A symbol for each seed, those at one place below each other, and by how much that makes the row deeper."""
    places = [round(_PLACE * _at(effect, axis, known(bounds)[0])) for bounds in effect.effects]
    below = max(Counter(places).values()) - 1
    apart = min(_APART, _DEEPEST / below) if below else 0
    marks, taken = [], Counter[int]()
    for seed, bounds, place in zip(effect.seeds, effect.effects, places, strict=True):
        value, side = known(bounds)
        towards = notation.position(effect, side)
        symbol = ("triangle-right" if towards > 0 else "triangle-left") if side else "circle"
        symbol = "circle-open" if all(map(math.isinf, bounds)) else symbol
        hint = f"seed {seed}: {notation.span(effect, bounds)}"
        depth = _SEEDS + round(apart * taken[place])
        marks.append(svg.mark(symbol, _at(effect, axis, value), depth, f"{colour} faint", hint))
        taken[place] += 1
    return marks, round(apart * below)


def interval(axis: Axis, ends_of: Sequence[float], y: float, colour: str) -> Iterator[Markup]:
    """The line of an interval; an open end runs to the edge of the figure and has an arrow."""
    left, right = ends_of
    ends = axis.share(max(left, axis.low)), axis.share(min(right, axis.high))
    yield svg.line(ends, (y, y), f"interval {colour}")
    for end, true, symbol in zip(ends, (left, right), ("triangle-left", "triangle-right"), strict=True):
        if math.isinf(true):
            yield svg.mark(symbol, end, y, colour)


def known(bounds: Interval) -> tuple[float, float]:
    """The value that is known of an effect, and the sign of the side on which it is open (0: none, or both)."""
    low, high = bounds
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2, 0.0
    if math.isinf(low) and math.isinf(high):
        return 0.0, 0.0
    return (low, 1.0) if math.isfinite(low) else (high, -1.0)


def _at(effect: Effect, axis: Axis, value: float) -> float:
    return axis.share(notation.position(effect, value))


def _description(effects: Sequence[Effect], said: Mapping[str, str]) -> str:
    """The figure in words, for those who do not see it."""
    rows = "; ".join(f"{e.name}: {notation.estimate_and_interval(e)}, {said[e.name]}" for e in effects)
    what = "Ratio of treatment to control" if effects[0].scale == "ratio" else "Treatment minus control"
    return f"{what}, with its {notation.interval_name(effects)}. {rows}."


def _table(effects: Sequence[Effect]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """A row for each seed, a column for each effect."""
    cells = [
        {
            seed: notation.span(effect, bounds)
            for seed, bounds in zip(effect.seeds, effect.effects, strict=True)
        }
        for effect in effects
    ]
    seeds = sorted({seed for effect in effects for seed in effect.seeds})
    columns = ("seed", *(effect.name for effect in effects))
    return columns, tuple((str(seed), *(cell.get(seed, "") for cell in cells)) for seed in seeds)
