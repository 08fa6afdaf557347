"""The names under which edits and probes enter the keys of trials: stable, wherever a function stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from normsmith.errors import StudyError

F = TypeVar("F", bound=Callable[..., Any])

_FORM = re.compile(r"[a-z0-9]+([-./][a-z0-9]+)*")
_DECLARED: dict[str, str] = {}
"""The import path of the function that each declared name belongs to."""


def named(name: str) -> Callable[[F], F]:
    """Declare the name of an edit or a probe, which is part of the key of every trial that uses it.

    The name is kept for good: a function that is moved or renamed keeps it and its stored trials, and one that
    computes something else takes another. Names of your own functions start with a word of yours, as `mylab/no-affine`.

    Raises:
        StudyError: the name is no word in lower case, or another function has it.

    >>> @named("example/clip")
    ... def clip(model, task, limit):
    ...     return model
    >>> name_of(clip)
    'example/clip'
    """
    if not _FORM.fullmatch(name):
        raise StudyError(
            f"expected a name of letters in lower case, digits, dashes and slashes, as mylab/no-affine, got {name!r}"
        )

    def declare(function: F) -> F:
        path = _import_path(function)
        if _DECLARED.setdefault(name, path) != path:
            raise StudyError(f"the name {name!r} of {path} belongs to {_DECLARED[name]}: choose another")
        vars(function)["study_name"] = name
        return function

    return declare


def name_of(function: Callable[..., Any]) -> str:
    """The declared name of an edit or a probe; its import path, `module:function`, where it has none.

    A function without a declared name thus loses its stored trials when it moves.
    """
    declared: str | None = getattr(function, "study_name", None)
    return declared or _import_path(function)


def _import_path(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"
