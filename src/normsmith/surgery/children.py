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
        self._moves = name in parent._modules
        self._before = dict(parent._modules)

    def is_possible(self) -> bool:
        found = self.parent._modules
        stands = found.get(self.name) is self.child if self._moves else self.name not in found
        return stands and found.get(self.neighbour) is self._before[self.neighbour]

    def is_undoable(self) -> bool:
        return self.parent._modules.get(self.name) is self.child

    def do(self) -> None:
        self._before = dict(self.parent._modules)
        order = [name for name in self._before if name != self.name]
        order.insert(order.index(self.neighbour) + self.behind, self.name)
        _fill(self.parent, {**self._before, self.name: self.child}, order)

    def undo(self) -> None:
        found = dict(self.parent._modules)
        if not self._moves:
            found.pop(self.name, None)
        _fill(self.parent, found, [name for name in self._before if name in found])


class RemoveChild(Edit):
    """Take a child out; the names of the others stay."""

    def __init__(self, parent: nn.Module, name: str) -> None:
        self.parent, self.name = parent, name
        self._before = dict(parent._modules)

    def is_possible(self) -> bool:
        return self.parent._modules.get(self.name) is self._before[self.name]

    def is_undoable(self) -> bool:
        return self.name not in self.parent._modules

    def do(self) -> None:
        self._before = dict(self.parent._modules)
        del self.parent._modules[self.name]

    def undo(self) -> None:
        put_back(self.parent._modules, self._before, self.name)


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


def _fill(parent: nn.Module, children: Mapping[str, nn.Module | None], order: list[str]) -> None:
    rest = [name for name in children if name not in order]
    parent._modules.clear()
    parent._modules.update({name: children[name] for name in (*order, *rest)})
