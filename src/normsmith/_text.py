"""Numbers, signs, durations and counts as a reader meets them: the same in reports, terminals and sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime

_SURROGATE = re.compile("[\ud800-\udfff]")
MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 3) -> str:
    """A measured number to `digits` significant digits: thousands grouped, a true minus sign.

    >>> number(0.12345), number(-12345.6), number(2.0), number(3e-7), number(0.97654, 4), number(99.7, 2)
    ('0.123', '−12,346', '2', '3e−07', '0.9765', '100')
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: f"{MINUS}∞"}.get(value, "not a number")
    text = f"{value + 0.0:.{digits}g}"  # a negative zero is a zero
    if min(1000, 10**digits) <= abs(float(text)) < 1e7:
        text = f"{value:,.0f}"
    return text.replace("-", MINUS)


def exact(value: float) -> str:
    """A number that somebody chose, such as a setting or a tick: up to six significant digits, nothing grouped.

    >>> exact(0.0009765625), exact(0.1), exact(1024.0)
    ('0.000976562', '0.1', '1024')
    """
    return f"{value:.6g}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A `number` with its sign, plus too; zero has none.

    >>> signed(4.1), signed(-4.1), signed(0.0)
    ('+4.1', '−4.1', '0')
    """
    return ("+" if value > 0 else "") + number(value, digits)


def ratio(value: float) -> str:
    """How many times as large one thing is as another.

    >>> ratio(0.4), ratio(12.0)
    ('0.4×', '12×')
    """
    return f"{number(value)}×"


def interval(low: float, high: float) -> str:
    """Two ends, or the one number that both are.

    >>> interval(-1.0, 3.0), interval(2.0, 2.0)
    ('−1 to 3', '2')
    """
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def probability(p: float) -> str:
    """A probability to two significant digits; never a zero that nobody measured.

    >>> probability(0.00781), probability(1.0), probability(0.00001)
    ('0.0078', '1', '<0.0001')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def p_value(p: float) -> str:
    """A p-value inside a sentence.

    >>> p_value(0.031), p_value(0.00001)
    ('p = 0.031', 'p < 0.0001')
    """
    text = probability(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def duration(seconds: float) -> str:
    """A measured time in its two largest units.

    >>> duration(4.26), duration(134.0), duration(7325.0)
    ('4.3 s', '2 min 14 s', '2 h 2 min')
    """
    if seconds < 59.95:  # from there on it would be shown as 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def rough_duration(seconds: float) -> str:
    """An estimated time in one unit: it is not known better.

    >>> rough_duration(0.3), rough_duration(42.3), rough_duration(134.0), rough_duration(7325.0)
    ('1 s', '42 s', '2 min', '2.0 h')
    """
    if seconds < 99.5:
        return f"{max(seconds, 1.0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def moment(started: str) -> str:
    """A point in time to the minute; what is not in ISO 8601 stays as it is.

    >>> moment("2026-02-03T10:15:42+00:00"), moment("yesterday")
    ('2026-02-03 10:15 UTC', 'yesterday')
    """
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M %Z}".rstrip()
    except ValueError:
        return started


def count(n: int, noun: str) -> str:
    """A count with its noun, in the plural unless there is one.

    >>> count(1, "question"), count(1200, "trial"), count(2, "process")
    ('1 question', '1,200 trials', '2 processes')
    """
    return f"{n:,} {noun if n == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The regular plural of a noun.

    >>> plural("seed"), plural("process"), plural("entry"), plural("key"), plural("hypothesis"), plural("batch")
    ('seeds', 'processes', 'entries', 'keys', 'hypotheses', 'batches')
    """
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    if noun.endswith("sis"):
        return f"{noun.removesuffix('is')}es"
    return f"{noun}{'es' if noun.endswith(('s', 'ch', 'sh', 'x')) else 's'}"


def some(items: Sequence[str], most: int) -> str:
    """The first items of a list, at `most` so many, and how many more there are.

    >>> some(["a", "b", "c", "d"], most=2), some(["a", "b"], most=2)
    ('a, b and 2 more', 'a, b')
    """
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def cut(text: str, most: int) -> str:
    """A text of at most so many characters, with how long it was if it was longer.

    >>> cut("short", 20), cut("x" * 1_000_000, 5)
    ('short', 'xxxxx… (1,000,000 characters)')
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def encodable(text: str) -> str:
    """A text that every file and terminal can hold: lone surrogates become the sign of what cannot be shown.

    >>> encodable("caf\\udce9"), encodable("é 🙂")
    ('caf�', 'é 🙂')
    """
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def ranges(values: Sequence[int]) -> str:
    """Whole numbers in order, runs of three or more joined.

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


LONGEST_REASON = 2000
"""So many characters of what an error says are shown: some repeat all of their data."""


def error_text(error: BaseException) -> str:
    """What an error says, after its type, in one line: cut where it is long, whatever its `__str__` does.

    >>> error_text(ValueError("expected one,\\n  got two")), error_text(KeyboardInterrupt())
    ('ValueError: expected one, got two', 'KeyboardInterrupt')
    """
    name = type(error).__name__
    try:
        said = str(error).strip()
        return one_line(f"{name}: {said}" if said else name)
    except BaseException as another:  # noqa: BLE001 - an error that cannot be shown is an error all the same
        return one_line(f"{name}: (its text cannot be shown: {type(another).__name__})")


def one_line(text: str, most: int = LONGEST_REASON) -> str:
    """Text of others in one line that a terminal, a page and a database take: cut where it is longer than `most`.

    >>> one_line("a\\n  b\\x1b[31m \\ud800"), one_line("abcdef", most=3)
    ('a b�[31m �', 'abc… (cut: 6 characters in all)')
    """
    shown = " ".join(text[: 2 * most].split())
    cut = f"… (cut: {len(text):,} characters in all)" if len(text) > 2 * most or len(shown) > most else ""
    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown[:most])
    return kept + cut


def path_text(path: str) -> str:
    """The path of a module as messages and tables show it; that of the model itself is empty.

    >>> path_text("layer1.norm"), path_text("")
    ('layer1.norm', '(model)')
    """
    return path or "(model)"
