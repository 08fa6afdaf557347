"""A setting that must be one of a few words."""

from __future__ import annotations

from normsmith.errors import InputError


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not one of those that the argument knows."""
    if value not in allowed:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, allowed))}; got {value!r}")
