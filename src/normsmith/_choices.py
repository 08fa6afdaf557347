"""Words and numbers as arguments: a word that is not known is refused, with the known one that is nearest to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Real
from typing import TypeGuard

from normsmith.errors import InputError


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not one of those that the argument knows."""
    if value not in allowed:
        raise InputError(
            f"{name}: expected one of {', '.join(map(repr, allowed))}; got {value!r}{did_you_mean(value, allowed)}"
        )


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, of Python or numpy: no truth value, no text, no tensor.

    >>> is_number(0.5), is_number("0.5"), is_number(True)
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a refusal, which names the known word that is nearest to `word`; empty where none is near.

    >>> did_you_mean("renrom", ["batch", "renorm"]), did_you_mean("tanh", ["batch", "renorm"])
    ('; did you mean renorm?', '')
    """
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[near[0]]}?" if near else ""
