"""All hypotheses of a study in one forest.

Effects in steps, points and octaves share one axis, because each is drawn in multiples of its own margin: "no effect"
is at 0 and the margin at 1, and what speaks for a claim lies to the right, whichever way its quantity goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from normsmith._text import exact
from normsmith.report import svg
from normsmith.report.axes import Axis
from normsmith.report.forest import backdrop, in_words, interval, known
from normsmith.report.palette import VERDICT_COLOURS
from normsmith.report.plots import KeyEntry
from normsmith.studies import notation
from normsmith.studies.results import Effect, StudyResult

_HEIGHT = 30
_MIDDLE = _HEIGHT / 2
_MOST = 1e6  # margins: beyond, an axis would be of no use


@dataclass(frozen=True)
class Row:
    """A hypothesis, and what was found, as a drawing."""

    effect: Effect
    drawing: Markup


@dataclass(frozen=True)
class Overview:
    """Rows for each question, in their order, and the axis below them all."""

    questions: tuple[tuple[Row, ...], ...]
    axis: Markup


def overview(result: StudyResult) -> Overview:
    """Draw every effect of a study over one axis."""
    axis = _axis([effect for answer in result.answers for effect in answer.effects])
    return Overview(
        tuple(
            tuple(Row(effect, _row(effect, axis)) for effect in answer.effects) for answer in result.answers
        ),
        svg.drawing(22, svg.labels(axis, 15)),
    )


def overview_key(result: StudyResult) -> tuple[KeyEntry, ...]:
    """What is drawn beside the verdicts, which each row says in words."""
    effects = [effect for answer in result.answers for effect in answer.effects]
    return (
        KeyEntry(f"estimate, {notation.interval_name(effects)}", "muted", "solid", "holds"),
        KeyEntry("margin, and the side of the claim", "muted", "", "margin"),
        KeyEntry("no effect", "muted", "", "zero"),
    )


def _place(effect: Effect, value: float) -> float:
    """An effect on the axis: multiples of its margin, where 1, 3 and 7 of them are equally far apart."""
    margins = max(-_MOST, min(value / effect.margin, _MOST))
    return math.copysign(math.log2(1 + abs(margins)), value)


def _axis(effects: Iterable[Effect]) -> Axis:
    marks = [
        _place(effect, value)
        for effect in effects
        for value in (known(effect.median)[0], *effect.interval)
        if math.isfinite(value)
    ]
    low, high = min([-1.0, *marks]), max([2.0, *marks])
    low, high = low - 0.15, high + 0.15
    every = math.ceil((high - low) / 6)
    ticks = [tick for tick in range(math.ceil(low), math.floor(high) + 1) if tick % every == 0 or tick == 1]
    return Axis(
        low, high, log=False, ticks=tuple(((tick - low) / (high - low), _label(tick)) for tick in ticks)
    )


def _label(tick: int) -> str:
    return f"{exact(math.copysign(2 ** abs(tick) - 1, tick))}×" if tick else "0"


def _row(effect: Effect, axis: Axis) -> Markup:
    colour = VERDICT_COLOURS[effect.verdict]
    ends = [end if math.isinf(end) else _place(effect, end) for end in effect.interval]
    estimate = axis.share(_place(effect, known(effect.median)[0]))
    return svg.drawing(
        _HEIGHT,
        *backdrop(axis, 1.0, _HEIGHT, both=effect.kind == "equivalence"),
        *interval(axis, ends, _MIDDLE, colour),
        svg.mark(colour, estimate, _MIDDLE, colour, in_words(effect)),
    )
