"""Which rules there are, and which of them are asked for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from normsmith._choices import did_you_mean
from normsmith._text import error_text
from normsmith.checks import rules
from normsmith.checks.finding import NotRun
from normsmith.checks.rule import Rule
from normsmith.errors import InputError

ENTRY_POINTS = "normsmith.rules"
"""The group of entry points by which other packages add rules: each names a `Rule`."""


def every_rule() -> dict[str, Rule]:
    """All rules by code, in the order of their codes: those of normsmith, then those of installed packages.

    An entry point that cannot be loaded, is no rule or has the code of another stands there by its own name, as a rule
    that is not run.

    >>> rule = every_rule()["NS201"]
    >>> rule.name, rule.level
    ('inverted-momentum', 'fast')
    """
    known = dict(_ours())
    for point in entry_points(group=ENTRY_POINTS):
        rule = _loaded(point)
        if rule.code in known:
            rule = _broken(point, f"{point.value} has the code {rule.code}, which is {known[rule.code].name}")
        known[rule.code] = rule
    return dict(sorted(known.items()))


@cache
def _ours() -> tuple[tuple[str, Rule], ...]:
    return tuple((rule.code, rule) for rule in _walked())


def _walked() -> Iterator[Rule]:
    """The rule of each module in the folders of the families."""
    for family in pkgutil.iter_modules(rules.__path__):
        package = importlib.import_module(f"{rules.__name__}.{family.name}")
        for info in pkgutil.iter_modules(package.__path__):
            yield importlib.import_module(f"{package.__name__}.{info.name}").RULE


def _loaded(point: Any) -> Rule:
    try:
        rule = point.load()
    except Exception as error:  # noqa: BLE001  somebody's package
        return _broken(point, f"{point.value} cannot be loaded: {error_text(error)}")
    return (
        rule
        if isinstance(rule, Rule)
        else _broken(point, f"{point.value} is no Rule, but {type(rule).__name__}")
    )


def _broken(point: Any, reason: str) -> Rule:
    """What stands for a rule of another package that cannot be run."""
    return Rule(point.name, point.name, "info", lambda _: NotRun(reason), f"Not run: {reason}.")


def chosen_rules(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules whose codes begin with one of `select` (all for none), less those that begin with one of `ignore`.

    Names of rules do as well as codes.

    Raises:
        InputError: nothing begins like that, with what is nearest.

    >>> [rule.code for rule in chosen_rules(["NS201", "frozen-momentum"], ["NS209"])]
    ['NS201']
    """
    known = every_rule()
    wanted = {code for prefix in select for code in _matching(prefix, known)} or set(known)
    left_out = {code for prefix in ignore for code in _matching(prefix, known)}
    return tuple(rule for code, rule in known.items() if code in wanted - left_out)


def named_rule(name: str) -> Rule:
    """The rule of a code or a name, in capitals or not.

    Raises:
        InputError: there is none.
    """
    known = every_rule()
    for rule in known.values():
        if name.lower() in (rule.code.lower(), rule.name):
            return rule
    raise _unknown(name, known)


def _matching(prefix: str, known: dict[str, Rule]) -> list[str]:
    matching = [
        code
        for code, rule in known.items()
        if prefix and (code.lower().startswith(prefix.lower()) or rule.name == prefix)
    ]
    if not matching:
        raise _unknown(prefix, known)
    return matching


def _unknown(name: str, known: dict[str, Rule]) -> InputError:
    names = [*known, *(rule.name for rule in known.values())]
    return InputError(
        f"no rule is called {name!r}: expected a code or name out of `normsmith rules`, or how codes begin"
        f"{did_you_mean(name, names)}"
    )
