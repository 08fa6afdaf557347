"""Numbers, effects and verdicts as a reader meets them, the same in every format."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

from normsmith.studies._inference import INTERVAL_FROM
from normsmith.studies.results import Effect, Verdict

SYMBOLS = {
    Verdict.HOLDS: "✓",
    Verdict.NOT_HERE: "✗",
    Verdict.REVERSED: "↺",
    Verdict.INCONCLUSIVE: "?",
}


def number(value: float) -> str:
    """Three significant digits, thousands grouped, a true minus sign.

    >>> number(0.12345), number(-12345.6), number(2.0), number(3e-7)
    ('0.123', '−12,346', '2', '3e−07')
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    digits = f"{value:.3g}"
    if 1000 <= abs(float(digits)) < 1e7:
        digits = f"{value:,.0f}"
    return digits.replace("-", "−")


def exact(value: float) -> str:
    """Up to six significant digits: axis values, margins and settings that are what they are.

    >>> exact(0.0009765625), exact(0.1), exact(1024.0)
    ('0.000976562', '0.1', '1024')
    """
    return f"{value:.6g}".replace("-", "−")


def signed(value: float) -> str:
    """`number` with its sign, zero without.

    >>> signed(4.1), signed(-4.1), signed(0.0)
    ('+4.1', '−4.1', '0')
    """
    return ("+" if value > 0 else "") + number(value if value else 0.0)


def probability(p: float) -> str:
    """Two significant digits; never a zero that nobody measured.

    >>> probability(0.00781), probability(1.0), probability(0.00001)
    ('0.0078', '1', '<0.0001')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def place(effect: Effect, value: float) -> float:
    """Where a value of `effect` stands on its axis: ratios are logarithms of treatment over control."""
    return -value if effect.scale == "ratio" and effect.better == "lower" else value


def shown(effect: Effect, value: float) -> float:
    """A value of `effect` as a reader sees it: the ratio of treatment to control, or the difference."""
    if effect.scale == "difference":
        return value
    try:
        return math.exp(place(effect, value))
    except OverflowError:
        return math.inf


def amount(effect: Effect, value: float) -> str:
    """One value of an effect: `0.4×` or `+4.1`."""
    if effect.scale == "ratio":
        return f"{number(shown(effect, value))}×"
    return signed(value)


def estimate(effect: Effect) -> str:
    """The estimate with its interval: `0.4× (0.3× to 0.5×)` or `+4.1 points (+1.2 to +7)`."""
    low, high = sorted((effect.low, effect.high), key=lambda end: place(effect, end))
    interval = f"({amount(effect, low)} to {amount(effect, high)})"
    return f"{amount(effect, effect.estimate)}{_unit(effect)} {interval}"


def interval_name(effects: Iterable[Effect]) -> str:
    """What the two ends of an estimate are; too few seeds have a range, and no 95 % interval."""
    enough = all(len(effect.values) >= INTERVAL_FROM for effect in effects)
    return "95 % interval" if enough else "range of the seeds"


def margin(effect: Effect) -> str:
    """What the interval is held against: `at most 0.667×`, `at least +2 points`, `within ±1 points`."""
    end = amount(effect, effect.margin) + _unit(effect)
    if effect.kind == "superiority":
        lower = effect.scale == "ratio" and effect.better == "lower"
        if effect.margin == 0:
            return f"{'less' if lower else 'more'} than {end}"
        return f"{'at most' if lower else 'at least'} {end}"
    if effect.scale == "ratio":
        ends = sorted((-effect.margin, effect.margin), key=lambda value: place(effect, value))
        return f"within {amount(effect, ends[0])} to {amount(effect, ends[1])}"
    return f"within ±{number(effect.margin)}{_unit(effect)}"


def finding(effect: Effect) -> str:
    """The sentence on an effect, without the verdict where it begins with it: that stands beside it."""
    lead, colon, rest = effect.sentence.partition(": ")
    if not (colon and rest and lead.lower() == effect.verdict.value):
        return effect.sentence
    return rest[0].upper() + rest[1:]


def _unit(effect: Effect) -> str:
    return f" {effect.unit}" if effect.scale == "difference" and effect.unit else ""


def censoring(effect: Effect) -> str:
    """How many of the paired effects are bounds rather than values, or nothing."""
    return f"{effect.censored} of {len(effect.values)} censored" if effect.censored else ""


def duration(seconds: float) -> str:
    """Seconds in the two largest units.

    >>> duration(4.26), duration(134.0), duration(7325.0)
    ('4.3 s', '2 min 14 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(started: str) -> str:
    """A point in time to the minute; what is not in ISO 8601 stays as it is.

    >>> moment("2026-02-03T10:15:42+00:00"), moment("yesterday")
    ('2026-02-03 10:15 UTC', 'yesterday')
    """
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M %Z}".rstrip()
    except ValueError:
        return started


def tally(verdict: Verdict, n: int) -> str:
    """How many hypotheses got this verdict.

    >>> tally(Verdict.HOLDS, 1), tally(Verdict.NOT_HERE, 3)
    ('1 holds', '3 do not hold here')
    """
    words = verdict.value if n == 1 else verdict.value.replace("does", "do").replace("holds", "hold")
    return f"{n} {words}"


def count(n: int, noun: str) -> str:
    """A count with its noun in the right number.

    >>> count(1, "question"), count(2, "trial")
    ('1 question', '2 trials')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def ranges(values: Sequence[int]) -> str:
    """Whole numbers, runs of three or more joined.

    >>> ranges([0, 1, 2, 3, 7, 9, 10])
    '0–3, 7, 9, 10'
    """
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts)
