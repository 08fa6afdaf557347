"""A name out of a closed list: another one is refused, with the known name that is nearest to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from normsmith.errors import InputError


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not one of those that the argument knows."""
    if value not in allowed:
        raise InputError(
            f"{name}: expected one of {', '.join(map(repr, allowed))}; got {value!r}{did_you_mean(value, allowed)}"
        )


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a refusal, which names the known word that is nearest to `word`; empty where none is near.

    >>> did_you_mean("renrom", ["batch", "renorm"]), did_you_mean("tanh", ["batch", "renorm"])
    ('; did you mean renorm?', '')
    """
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[near[0]]}?" if near else ""
