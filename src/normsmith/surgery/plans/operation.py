"""Operations: what was asked for, so that a plan can be made again on another model or in another process.

Find, then build. Every verb of surgery that makes a plan has these two halves:

- *find* looks at the model and its data and takes the decisions. It changes nothing. Decisions are plain data (text,
  numbers, lists and dictionaries of them): which modules, at which places, and what is refused and why.
- *build* makes the edits from these decisions alone, `build(model, **decisions) → Plan`, without any data.

A plan remembers its verb and its decisions. Copies, EMA models and saved plans are changed by building again.
`convert`, `freeze`, `set_statistics` and `warm_start` decide by their arguments and the model alone: they are their
own build, and their arguments are their decisions. What `recalibrate` finds are statistics, and `set_statistics` builds
its plan. What `average` finds are weights, no plain data: its plans stay in their process. `adapt` makes no plan: what
it changes lasts for a block of code.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from torch import nn

from normsmith._choices import did_you_mean
from normsmith.anatomy.isolation import garbage_collector_paused
from normsmith.errors import SurgeryError

Decisions = dict[str, Any]
"""What a find has decided, as plain data: the arguments of the build, by name."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Verb:
    """The two halves of an operation; `find` is None where the build decides by its arguments alone."""

    build: Callable[..., Any]
    find: Callable[..., Decisions] | None


VERBS: dict[str, Verb] = {}
"""Every operation by the name of its public function, which saved plans carry."""


@dataclass(frozen=True)
class Operation:
    """A verb of `normsmith.surgery` and the decisions that its build was given."""

    name: str
    arguments: Mapping[str, Any]

    def plan(self, model: nn.Module) -> Any:
        """Build the plan for another model.

        Raises:
            SurgeryError: the verb is unknown, or its build refuses this model.
        """
        if self.name not in VERBS:
            raise SurgeryError(
                f"plan: expected an operation among {', '.join(sorted(VERBS))}, got {self.name!r}"
                f"{did_you_mean(self.name, VERBS)}"
            )
        return VERBS[self.name].build(model, **self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """The operation for JSON. Raises SurgeryError where an argument is an object of this process."""
        for name, value in self.arguments.items():
            if not _is_plain(value):
                shown = repr(value)
                if len(shown) > 100:  # tensors of weights
                    shown = f"<{type(value).__name__}>"
                raise SurgeryError(
                    f"plan of {self.name}: expected arguments that JSON holds (text, numbers, lists of them), got "
                    f"{name}={shown}; such a plan stays in its process"
                )
        return {"name": self.name, "arguments": dict(self.arguments)}


def operation(verb: str, *, find: Callable[..., Decisions] | None = None) -> Callable[[F], F]:
    """Declare the build `(model, **decisions) → Plan` of a verb: its plans then know how they were made.

    `verb` is the name of the public function. The build decides by its arguments and the model, and changes neither.
    """

    def declared(build: F) -> F:
        signature = inspect.signature(build)
        extra = {p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD}

        @functools.wraps(build)
        def planned(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            given = dict(signature.bind(model, *args, **kwargs).arguments)
            given.pop(next(iter(signature.parameters)))
            arguments = {name: value for name, value in given.items() if name not in extra}
            for name in extra & given.keys():
                arguments |= given[name]
            with garbage_collector_paused():
                plan = build(model, *args, **kwargs)
            return replace(plan, operation=Operation(verb, arguments))

        VERBS[verb] = Verb(planned, find)
        return cast(F, planned)

    return declared


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, (str, int, float, bool))
