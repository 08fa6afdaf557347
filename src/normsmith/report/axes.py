"""Ticks that read well: few, round, and the same at every width."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from normsmith._text import exact

MOST_TICKS = 7
_SHARES = (0.0, 0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0)  # ticks of an axis of shares
_APART = 0.05  # of the length: labels that are nearer to each other cannot be read
_LARGEST = 1e300  # beyond, the length of an axis would not be finite
_RAISED = str.maketrans("0123456789−.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·")


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers from one edge to the other; a log axis holds natural logarithms.

    Attributes:
        low, high: the numbers at its edges.
        log: whether they are logarithms.
        ticks: where its ticks are, as shares of its length, and their labels.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def shows(self, value: float) -> bool:
        """Whether a value has a place: it is not absurdly large, and has a logarithm where the axis is of those."""
        return _has_place(value, log=self.log)

    def share(self, value: float) -> float:
        """Where a value lies, as a share of the length."""
        return _share(math.log(value) if self.log else value, self.low, self.high)


def axis_of(values: Iterable[float], *, log: bool = False, pad: float = 0.04) -> Axis:
    """An axis that covers `values` and a little more, with ticks at the values themselves where a log axis has few.

    >>> [label for _, label in axis_of([0.0, 1.0]).ticks], [label for _, label in axis_of([1, 8], log=True).ticks]
    (['0', '0.2', '0.4', '0.6', '0.8', '1'], ['1', '8'])
    """
    finite = sorted({value for value in values if _has_place(value, log=log)}) or [1.0]
    low, high = (math.log(finite[0]), math.log(finite[-1])) if log else (finite[0], finite[-1])
    room = pad * (high - low) or 0.5
    low, high = low - room, high + room
    ticks = _pick(finite) if log else round_ticks(low, high)
    places = [_share(math.log(tick) if log else tick, low, high) for tick in ticks]
    return Axis(low, high, log, tuple(zip(places, _names(ticks), strict=True)))


@dataclass(frozen=True)
class ShareAxis(Axis):
    """An axis of shares that is stretched towards 1, where what networks reach would else lie on one line.

    A place is the negative logarithm of what is missing to 1, and a hundredth more, so that 1 has a place too.
    """

    def share(self, value: float) -> float:
        """Where a value lies, as a share of the length."""
        return _share(_stretched(value), self.low, self.high)


def share_axis(values: Iterable[float]) -> ShareAxis:
    """An axis that covers shares between 0 and 1, stretched towards 1.

    >>> [label for _, label in share_axis([0.1, 0.97]).ticks]
    ['0.1', '0.5', '0.8', '0.9', '0.95']
    """
    places = [_stretched(value) for value in values] or [_stretched(0.0), _stretched(1.0)]
    room = 0.04 * (max(places) - min(places)) or 0.1
    low, high = min(places) - room, max(places) + room
    ticks: list[tuple[float, str]] = []
    for tick in reversed(_SHARES):
        at = _share(_stretched(tick), low, high)
        if 0 <= at <= 1 and not (ticks and ticks[0][0] - at < _APART):
            ticks.insert(0, (at, exact(tick)))
    return ShareAxis(low, high, False, tuple(ticks))


def _stretched(value: float) -> float:
    return -math.log(1.01 - value)


def _has_place(value: float, *, log: bool) -> bool:
    return abs(value) < _LARGEST and (value > 0 or not log)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def _names(ticks: Sequence[float]) -> list[str]:
    in_full = all(0.1 <= tick < 10000 for tick in ticks)
    if not in_full and all(tick > 0 for tick in ticks) and _powers_of_two(ticks):
        return [f"2{exact(math.log2(tick)).translate(_RAISED)}" for tick in ticks]
    return [exact(tick) for tick in ticks]


def round_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at most seven.

    >>> round_ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / MOST_TICKS))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= MOST_TICKS - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round ratios between exp(low) and exp(high): evenly when close, 1-2-5 over decades, then powers of ten.

    >>> ratio_ticks(math.log(0.4), math.log(6))
    [0.5, 1.0, 2.0, 5.0]
    """
    first, last = math.floor(low / math.log(10)), math.ceil(high / math.log(10))
    every = max(1, math.ceil((last - first) / MOST_TICKS))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    # Powers of ten as multiples of `every`, so that 1 is always among them.
    powers = [power for power in range(first, last + 1) if power % every == 0 and abs(power) < 300]
    ladder = [float(f"{step}e{power}") for power in powers for step in steps]
    within = [tick for tick in ladder if low - 1e-9 <= math.log(tick) <= high + 1e-9]
    if len(within) < 3 and high < 700:
        return [tick for tick in round_ticks(math.exp(low), math.exp(high)) if tick > 0]
    return within if len(within) <= MOST_TICKS else [tick for tick in within if exact(tick)[-1] != "2"]


def _pick(positive: Sequence[float]) -> list[float]:
    if len(positive) <= MOST_TICKS:
        return list(positive)
    if _powers_of_two(positive):
        every = math.ceil(len(positive) / MOST_TICKS)
        return [value for value in positive if math.log2(value) % every == 0]
    return ratio_ticks(math.log(positive[0]), math.log(positive[-1]))


def _powers_of_two(values: Sequence[float]) -> bool:
    return all(math.frexp(value)[0] == 0.5 for value in values)
