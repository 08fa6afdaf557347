"""Children of an `nn.Sequential` that come, go and move, one at a time; all others keep name and order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from normsmith.surgery.edits import Edit


class PlaceChild(Edit):
    """Put a child right before or behind another; one that is there already under that name moves."""

    def __init__(
        self, parent: nn.Module, name: str, child: nn.Module, neighbour: str, *, behind: bool
    ) -> None:
        self.parent, self.name, self.child, self.neighbour, self.behind = (
            parent,
            name,
            child,
            neighbour,
            behind,
        )
        self._beside, self._moves = parent._modules[neighbour], name in parent._modules
        self._next: str | None = None

    def is_possible(self) -> bool:
        found = self.parent._modules
        stands = found.get(self.name) is self.child if self._moves else self.name not in found
        return stands and found.get(self.neighbour) is self._beside

    def is_undoable(self) -> bool:
        return self.parent._modules.get(self.name) is self.child

    def do(self) -> None:
        self._next = _next(self.parent, self.name)
        before = _next(self.parent, self.neighbour) if self.behind else self.neighbour
        _insert(self.parent, self.name, self.child, before)

    def undo(self) -> None:
        if self._moves:
            _insert(self.parent, self.name, self.child, self._next)
        else:
            self.parent._modules.pop(self.name, None)


class RemoveChild(Edit):
    """Take a child out; the names of the others stay."""

    def __init__(self, parent: nn.Module, name: str) -> None:
        self.parent, self.name, self.child = parent, name, parent._modules[name]
        self._next: str | None = _next(parent, name)

    def is_possible(self) -> bool:
        return self.parent._modules.get(self.name) is self.child

    def is_undoable(self) -> bool:
        return self.name not in self.parent._modules

    def do(self) -> None:
        self._next = _next(self.parent, self.name)
        del self.parent._modules[self.name]

    def undo(self) -> None:
        _insert(self.parent, self.name, self.child, self._next)


class SlotEdit(Edit):
    """Put another child into the places of one; unlike `ModuleEdit`, mode and hooks stay with each of the two."""

    def __init__(self, holders: tuple[tuple[nn.Module, str], ...], old: nn.Module, new: nn.Module) -> None:
        self.holders, self.old, self.new = holders, old, new

    def is_possible(self) -> bool:
        return self._holds(self.old)

    def is_undoable(self) -> bool:
        return self._holds(self.new)

    def do(self) -> None:
        self._put(self.new)

    def undo(self) -> None:
        self._put(self.old)

    def _holds(self, child: nn.Module) -> bool:
        return all(parent._modules.get(name) is child for parent, name in self.holders)

    def _put(self, child: nn.Module) -> None:
        for parent, name in self.holders:
            parent._modules[name] = child


def put_back(found: dict[Any, Any], before: Mapping[Any, Any], key: Any) -> None:
    """The entry that went, at its place among those that are there still.

    >>> entries = {"b": 2, "new": 4}
    >>> put_back(entries, {"a": 1, "b": 2, "gone": 3}, "a")
    >>> entries
    {'a': 1, 'b': 2, 'new': 4}
    """
    if key not in before:
        return
    entries = {**found, key: before[key]}
    order = [name for name in before if name in entries]
    rest = [name for name in entries if name not in before]
    found.clear()
    found.update({name: entries[name] for name in (*order, *rest)})


def _next(parent: nn.Module, name: str) -> str | None:
    """The name of the child behind one, if both are there."""
    names = iter(parent._modules)
    return next(names, None) if name in names else None


def _insert(parent: nn.Module, name: str, child: nn.Module | None, before: str | None) -> None:
    """A child, new or not, before another one; at the end where that is not there."""
    if before == name:
        return
    children = [(key, value) for key, value in parent._modules.items() if key != name]
    names = [key for key, _ in children]
    children.insert(names.index(before) if before in names else len(names), (name, child))
    parent._modules.clear()
    parent._modules.update(children)
