"""The names under which edits and probes enter the keys of trials: stable, wherever a function stands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

from normsmith.errors import StudyError

F = TypeVar("F", bound=Callable[..., Any])

_FORM = re.compile(r"[a-z0-9]+([-./][a-z0-9]+)*")
_DECLARED: dict[str, str] = {}
"""The file and the name in it of the function that each declared name belongs to."""


def named(name: str) -> Callable[[F], F]:
    """Declare the name of an edit or a probe, which is part of the key of every trial that uses it.

    The name is kept for good: a function that is moved or renamed keeps it and its stored trials, and one that
    computes something else takes another. Names of your own functions start with a word of yours, as `mylab/no-affine`.

    Raises:
        StudyError: the name is no word in lower case, another function has it, or the function is a lambda, is made
            within another function, or is no function at all: a name must tell what is computed.

    >>> @named("example/clip")
    ... def clip(model, task, limit):
    ...     return model
    >>> name_of(clip)
    'example/clip'
    """
    if not (isinstance(name, str) and _FORM.fullmatch(name)):
        raise StudyError(
            f"expected a name of letters in lower case, digits, dashes and slashes, as mylab/no-affine, got {name!r}"
        )

    def declare(function: F) -> F:
        owner = _owner(function)
        if _DECLARED.setdefault(name, owner) != owner:
            raise StudyError(f"the name {name!r} of {owner} belongs to {_DECLARED[name]}: choose another")
        if vars(function).setdefault("study_name", name) != name:
            raise StudyError(
                f"{owner} has the name {vars(function)['study_name']!r} already, got {name!r} too"
            )
        return function

    return declare


def name_of(function: Callable[..., Any]) -> str:
    """The declared name of an edit or a probe; its import path, `module:function`, where it has none.

    A function without a declared name thus loses its stored trials when it moves.

    Raises:
        StudyError: two functions could have the name, as with lambdas and functions within functions.
    """
    declared: str | None = getattr(function, "study_name", None)
    return declared or _import_path(function)


def _import_path(function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None or "<" in name:
        raise StudyError(
            f"expected a function that stands in a module by itself as edit or probe, got {name or function!r}, of "
            "which there may be several: define it with def, outside of other functions"
        )
    return f"{module}:{name}"


def _owner(function: Callable[..., Any]) -> str:
    """The file of a function and its name there: the same under whatever module name the file is loaded."""
    path = _import_path(function)
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        raise StudyError(f"expected a function written in Python to name, got {path}")
    return f"{code.co_filename}:{path.partition(':')[2]}"
