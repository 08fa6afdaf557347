"""What was asked for: an operation's name and arguments, with which a plan is made again on another model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import nn

from normsmith.anatomy.isolation import uncollected
from normsmith.errors import SurgeryError

if TYPE_CHECKING:
    from normsmith.surgery.plans.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])
_OPERATIONS: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Operation:
    """A call of an operation of `normsmith.surgery`, the model left out."""

    name: str
    arguments: Mapping[str, Any]

    def plan(self, model: nn.Module) -> Plan:
        """The plan for another model. Raises SurgeryError for an unknown operation and what that raises."""
        if self.name not in _OPERATIONS:
            raise SurgeryError(
                f"plan: expected an operation among {', '.join(sorted(_OPERATIONS))}, got {self.name!r}"
            )
        plan: Plan = _OPERATIONS[self.name](model, **self.arguments)
        return plan

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Raises SurgeryError where an argument is an object of this process."""
        for name, value in self.arguments.items():
            if not _is_plain(value):
                raise SurgeryError(
                    f"plan of {self.name}: expected arguments that JSON holds (text, numbers, lists of them), got "
                    f"{name}={value!r}; such a plan stays in its process"
                )
        return {"name": self.name, "arguments": dict(self.arguments)}


def operation(function: F) -> F:
    """Make a function `(model, …) → Plan` an operation: its plans know how they were made.

    Such a function decides by its arguments and the model alone, and changes neither.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def planned(model: nn.Module, *args: Any, **kwargs: Any) -> Plan:
        given = dict(signature.bind(model, *args, **kwargs).arguments)
        given.pop(next(iter(signature.parameters)))
        rest = {p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD}
        arguments = {name: value for name, value in given.items() if name not in rest}
        for name in rest & given.keys():
            arguments |= given[name]
        with uncollected():
            plan: Plan = function(model, *args, **kwargs)
        return replace(plan, operation=Operation(function.__name__, arguments))

    _OPERATIONS[function.__name__] = planned
    return cast(F, planned)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, (str, int, float, bool))
