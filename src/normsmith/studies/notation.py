"""How an effect is written, in headlines, sentences, tables and figures alike.

One convention holds everywhere: a difference is shown as it is kept, positive in the direction of the claim, and
with its sign; a ratio is shown as treatment over control, so that 0.4× of the steps speaks for a treatment that
should need fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

from normsmith import _text
from normsmith.studies._inference import INTERVAL_FROM
from normsmith.studies.results import Effect

_DECIMALS = 12
"""Beyond these decimals a mean of differences is the noise of its additions, and no effect."""


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
    """Where a value stands on its axis: ratios stand at the logarithm of treatment over control."""
    return -value if effect.scale == "ratio" and effect.better == "lower" else value


def shown(effect: Scaled, value: float) -> float:
    """The number that a reader sees for a value: the ratio of treatment to control, or the difference."""
    if effect.scale == "difference":
        return value
    try:
        return math.exp(position(effect, value))
    except OverflowError:
        return math.inf


def amount(effect: Scaled, value: float) -> str:
    """One value without its unit: `0.4×` or `+4.1`."""
    if effect.scale == "ratio":
        return _text.ratio(shown(effect, value))
    return _text.signed(round(value, _DECIMALS))


def unit(effect: Scaled) -> str:
    """The unit after an `amount`, with the space before it; ratios have none."""
    return f" {effect.unit}" if effect.scale == "difference" and effect.unit else ""


def estimate(effect: Effect) -> str:
    """The estimate alone: `0.4×` or `+4.1 points`."""
    return f"{amount(effect, effect.estimate)}{unit(effect)}"


def estimate_and_interval(effect: Effect) -> str:
    """The estimate with its interval: `0.4× (0.3× to 0.5×)` or `+4.1 points (+1.2 to +7)`."""
    low, high = sorted((effect.low, effect.high), key=lambda end: position(effect, end))
    return f"{estimate(effect)} ({amount(effect, low)} to {amount(effect, high)})"


def interval_name(effects: Iterable[Effect]) -> str:
    """What the two ends of an estimate are; too few seeds have a range, and no 95 % interval."""
    return interval_name_at(min((len(effect.values) for effect in effects), default=INTERVAL_FROM))


def interval_name_at(seeds: int) -> str:
    """What the two ends of an estimate from so many seeds are."""
    return "95 % interval" if seeds >= INTERVAL_FROM else "range of the seeds"


def margin(effect: Effect) -> str:
    """What the interval is held against: `at most 0.667×`, `at least +2 points`, `within ±1 points`."""
    end = amount(effect, effect.margin) + unit(effect)
    if effect.kind == "superiority":
        lower = effect.scale == "ratio" and effect.better == "lower"
        if effect.margin == 0:
            return f"{'less' if lower else 'more'} than {end}"
        return f"{'at most' if lower else 'at least'} {end}"
    if effect.scale == "ratio":
        ends = sorted((-effect.margin, effect.margin), key=lambda value: position(effect, value))
        return f"within {amount(effect, ends[0])} to {amount(effect, ends[1])}"
    return f"within ±{_text.number(effect.margin)}{unit(effect)}"


def censoring(effect: Effect) -> str:
    """How many of the paired effects are bounds rather than values, or nothing."""
    return f"{effect.censored} of {len(effect.values)} censored" if effect.censored else ""
