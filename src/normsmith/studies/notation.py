"""How an effect is written, in headlines, sentences, tables and figures alike.

One convention holds everywhere: an effect is shown as what happened to the quantity, treatment against control:
0.4× the steps, −0.33 of units flat, +4.1 points. Whether that speaks for the claim is said in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

from normsmith import _text
from normsmith.studies._inference import has_interval
from normsmith.studies._pairs import Interval
from normsmith.studies.results import Effect

_DECIMALS = 12
"""Beyond these decimals a difference is the noise of its subtraction, and no effect."""


@runtime_checkable
class Scaled(Protocol):
    """What has a scale, and with it a way to be written: a hypothesis or an effect."""

    @property
    def scale(self) -> Literal["difference", "ratio"]:
        """Whether values are differences in a unit, or natural logarithms of ratios."""

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which way the claim points."""

    @property
    def unit(self) -> str:
        """What a value counts."""


def position(effect: Scaled, value: float) -> float:
    """Where a value stands on its axis: treatment minus control, or the logarithm of treatment over control."""
    return -value if effect.better == "lower" else value


def shown(effect: Scaled, value: float) -> float:
    """The number that a reader sees for a value: treatment over control, or treatment minus control."""
    moved = position(effect, value) + 0.0  # no negative zero
    if effect.scale == "difference":
        return moved
    try:
        return math.exp(moved)
    except OverflowError:
        return math.inf


def amount(effect: Scaled, value: float) -> str:
    """One value without its unit: `0.4×` or `+4.1`."""
    if effect.scale == "ratio":
        return _text.ratio(shown(effect, value))
    return _text.signed(round(shown(effect, value), _DECIMALS))


def unit(effect: Scaled, value: float = 0.0) -> str:
    """The unit after an `amount`, with the space before it; ratios have none, and one has no plural: `+1 point`."""
    if effect.scale == "ratio" or not effect.unit:
        return ""
    one = abs(round(value, _DECIMALS)) == 1 and effect.unit.endswith("s") and " " not in effect.unit
    return f" {effect.unit.removesuffix('s') if one else effect.unit}"


def span(effect: Scaled, interval: Interval) -> str:
    """An effect that may be known by its bounds only: `0.4×`, `at least +3`, `at most 0.5×`, `+1 to +3`."""
    left, right = sorted(interval, key=lambda end: position(effect, end))
    if left == right:
        return amount(effect, left)
    if math.isinf(left):
        return "not known" if math.isinf(right) else f"at most {amount(effect, right)}"
    return f"at least {amount(effect, left)}" if math.isinf(right) else _between(effect, left, right)


def ends(effect: Effect) -> str:
    """The interval of an effect: `0.3× to 0.5×`, open where it is: `0.3× or more`, `0.5× or less`."""
    left, right = sorted(effect.interval, key=lambda end: position(effect, end))
    if math.isinf(left):
        return "open on both sides" if math.isinf(right) else f"{amount(effect, right)} or less"
    return f"{amount(effect, left)} or more" if math.isinf(right) else _between(effect, left, right)


def _between(effect: Scaled, left: float, right: float) -> str:
    return f"{amount(effect, left)} to {amount(effect, right)}"


def estimate(effect: Effect) -> str:
    """The estimate alone: `0.4×` or `+4.1 points`."""
    if all(map(math.isinf, effect.median)):
        return span(effect, effect.median)
    return f"{span(effect, effect.median)}{unit(effect, effect.median[0])}"


def estimate_and_interval(effect: Effect) -> str:
    """The estimate with its interval: `0.4× (0.3× to 0.5×)` or `+4.1 points (+1.2 to +7)`."""
    return f"{estimate(effect)} ({ends(effect)})"


def interval_name(effects: Iterable[Effect]) -> str:
    """What the two ends of an estimate are; too few seeds have a range, and no 95 % interval."""
    have = all(has_interval(len(effect.seeds), effect.share) for effect in effects)
    return "95 % interval" if have else "range of the seeds"


def margin(effect: Effect) -> str:
    """What the claim asks for: `below 0.667×`, `above +2 points`, `within ±1 point`."""
    if effect.kind == "superiority":
        return f"{'below' if effect.better == 'lower' else 'above'} {_edge(effect)}"
    return f"within {_zone(effect)}"


def missed(effect: Effect) -> str:
    """Where a pair lies that speaks against the claim: `above 0.667×`, `below +2 points`, `beyond ±1 point`."""
    if effect.kind == "superiority":
        return f"{'above' if effect.better == 'lower' else 'below'} {_edge(effect)}"
    return f"on one side of {_zone(effect)}"


def _edge(effect: Effect) -> str:
    return amount(effect, effect.margin) + unit(effect, effect.margin)


def _zone(effect: Effect) -> str:
    if effect.scale == "difference":
        return f"±{_text.number(effect.margin)}{unit(effect, effect.margin)}"
    return _between(effect, *sorted((-effect.margin, effect.margin), key=lambda end: position(effect, end)))


def censoring(effect: Effect) -> str:
    """How many of the paired effects are bounds rather than values, or nothing."""
    return f"{effect.censored} of {len(effect.seeds)} censored" if effect.censored else ""
