"""Where each module of a model sits: all its paths, and all the places that hold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from normsmith._torch import children_of
from normsmith.anatomy.kinds import is_prepared
from normsmith.errors import InputError, SurgeryError


def check_changeable(model: nn.Module) -> None:
    """Raise InputError for what is no model, and SurgeryError for one that is no Python any more."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: expected an nn.Module, got {model if isinstance(model, type) else type(model)}"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise SurgeryError(
            "expected a model in Python, got a scripted one; change the model it was made from, and script that"
        )


_SIMPLE = {bool, int, float, str, type(None)}
_DEEPEST = 5
"""Of containers within each other; one that holds itself has no end."""


class Locations:
    """One walk through a model. A module that several parents hold, or one parent by several names, is shared.

    >>> norm = nn.BatchNorm1d(2)
    >>> locations = Locations(nn.Sequential(norm, nn.ReLU(), norm))
    >>> locations.paths[norm], [name for _, name in locations.holders[norm]]
    (('0', '2'), ['0', '2'])
    """

    def __init__(self, model: nn.Module) -> None:
        check_changeable(model)
        self.paths: dict[nn.Module, tuple[str, ...]] = {model: ("",)}
        self.holders: dict[nn.Module, tuple[tuple[nn.Module, str], ...]] = {model: ()}
        for path, module in model.named_modules(remove_duplicate=False):
            if path:
                self.paths[module] = (*self.paths.get(module, ()), path)
        for parent in self.paths:
            for name, child in children_of(parent).items():
                if child is not None:
                    self.holders[child] = (*self.holders.get(child, ()), (parent, name))
        self._plain = dict(_plainly_held(self))

    def plainly_held(self, module: nn.Module) -> str | None:
        """The attribute outside torch's own book-keeping that also holds a module, such as a plain list."""
        return self._plain.get(module)

    def held_by(self, module: nn.Module, doing: str) -> str | None:
        """What would go on using a module that is replaced, and so is against it; `doing`, as "folding"."""
        listed = self.plainly_held(module)
        if listed is not None:
            return f"{listed} holds it as a plain Python attribute, which would go on using the old one"
        for holder, _ in self.holders[module]:
            kind = type(holder)
            if kind.__name__ == "OptimizedModule":
                return f"it was compiled by itself; compile after {doing}"
            if kind.__module__.startswith(("torch.ao.", "torch.nn.intrinsic")):
                return f"it is part of {kind.__name__}, which computes with its insides"
        if "_compiled_call_impl" in vars(module):
            return f"it was compiled by itself; compile after {doing}"
        if is_prepared(module):
            return f"it is prepared for quantisation; prepare after {doing}"
        return None


def _plainly_held(locations: Locations) -> Iterator[tuple[nn.Module, str]]:
    for parent, (path, *_) in locations.paths.items():
        for name, value in vars(parent).items():
            if name == "_modules" or type(value) in _SIMPLE:
                continue
            for held in _inside(value):
                if held in locations.paths:
                    yield held, f"{path}.{name}" if path else name


def _inside(value: Any, depth: int = 0) -> Iterator[nn.Module]:
    """Modules in an attribute's value: itself, or in containers of containers."""
    if isinstance(value, dict):  # first: most attributes of a module are, and most of these are empty
        value = value.values()
    elif isinstance(value, nn.Module):
        yield value
        return
    elif not isinstance(value, (list, tuple, set)):
        return
    if depth < _DEEPEST:
        for inner in value:
            if type(inner) not in _SIMPLE:
                yield from _inside(inner, depth + 1)


def find(model: nn.Module, path: str) -> nn.Module:
    """The module at a path. Raises SurgeryError for a model that has none there."""
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise SurgeryError(f"expected a module at {path}, found none in {type(model).__name__}") from error
