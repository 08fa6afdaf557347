"""Ticks that read well: few, round, and the same at every width."""

import math
from collections.abc import Iterable, Sequence

from normsmith._text import exact

MOST_TICKS = 7


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


def log_axis(values: Iterable[float]) -> dict[str, object]:
    """A Plotly log axis that covers `values`, with ticks at the values themselves where they are few."""
    positive = sorted({value for value in values if value > 0 and math.isfinite(value)})
    if not positive:
        return {"type": "log"}
    return {"type": "log", "tickmode": "array", **_labelled(_pick(positive))}


def _pick(positive: Sequence[float]) -> list[float]:
    if len(positive) <= MOST_TICKS:
        return list(positive)
    if _powers_of_two(positive):
        every = math.ceil(len(positive) / MOST_TICKS)
        return [value for value in positive if math.log2(value) % every == 0]
    return ratio_ticks(math.log(positive[0]), math.log(positive[-1]))


def _labelled(ticks: Sequence[float]) -> dict[str, object]:
    if _powers_of_two(ticks) and not all(0.1 <= tick < 10000 for tick in ticks):
        labels = [f"2<sup>{exact(math.log2(tick))}</sup>" for tick in ticks]
    else:
        labels = [exact(tick) for tick in ticks]
    return {"tickvals": list(ticks), "ticktext": labels}


def _powers_of_two(values: Sequence[float]) -> bool:
    return all(math.frexp(value)[0] == 0.5 for value in values)
