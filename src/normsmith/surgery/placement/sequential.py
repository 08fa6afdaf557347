"""Children of an `nn.Sequential` that come, go and move; all others keep name and order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from torch import nn

from normsmith.surgery.plans.edits import Edit


class Rearrangement(Edit):
    """Children that come, go and move; all others keep name and order.

    `place` and `remove` say what is to be done, in order; it is done at once, however many there are.
    """

    def __init__(self, parent: nn.Module) -> None:
        self.parent = parent
        self._steps: list[_Step] = []
        self._stands: dict[str, nn.Module | None] = {}
        """What must be there for the steps; None: nothing of this name."""
        self._before: dict[str, nn.Module | None] = {}

    def place(self, name: str, child: nn.Module, neighbour: str, *, after: bool) -> None:
        """Put a child right before or after another; one that is there already under that name moves."""
        for seen in (name, neighbour):
            self._stands.setdefault(seen, self.parent._modules.get(seen))
        self._steps.append(_Step(name, child, neighbour, after))

    def remove(self, name: str) -> None:
        """Take a child out; the names of the others stay."""
        self._stands.setdefault(name, self.parent._modules[name])
        self._steps.append(_Step(name, None))

    def is_possible(self) -> bool:
        return self._holds(self._stands)

    def is_undoable(self) -> bool:
        return self._holds({step.name: step.child for step in self._steps})

    def do(self) -> None:
        self._before = dict(self.parent._modules)
        try:
            _become(self.parent, self._after())
        except BaseException:  # an interrupt between the old children and the new ones
            _become(self.parent, self._before)
            raise

    def undo(self) -> None:
        found, touched = self.parent._modules, {step.name for step in self._steps}
        old = {name: child for name, child in self._before.items() if name in touched or name in found}
        kept = {name: child for name, child in found.items() if name not in touched}
        _become(self.parent, {**old, **kept})

    def touches(self) -> Iterable[nn.Module]:
        return (self.parent,)

    def _holds(self, children: Mapping[str, nn.Module | None]) -> bool:
        return all(self.parent._modules.get(name) is child for name, child in children.items())

    def _after(self) -> dict[str, nn.Module | None]:
        """The children, linked to those after them while they move."""
        children: dict[str, nn.Module | None] = dict(self.parent._modules)
        names: list[str | None] = [None, *children, None]
        after = dict(pairwise(names))
        ahead = {later: name for name, later in after.items()}

        def link(name: str | None, later: str | None) -> None:
            after[name], ahead[later] = later, name

        for step in self._steps:
            if step.name in children:
                link(ahead.pop(step.name), after.pop(step.name))
                del children[step.name]
            if step.child is not None:
                first = step.neighbour if step.after else ahead[step.neighbour]
                last = after[first]
                link(first, step.name)
                link(step.name, last)
                children[step.name] = step.child
        found: dict[str, nn.Module | None] = {}
        name = after[None]
        while name is not None:
            found[name] = children[name]
            name = after[name]
        return found


class _Step(NamedTuple):
    name: str
    child: nn.Module | None
    """None: it goes."""
    neighbour: str = ""
    after: bool = False


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

    def touches(self) -> Iterable[nn.Module]:
        return (parent for parent, _ in self.holders)

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


def _become(parent: nn.Module, children: Mapping[str, nn.Module | None]) -> None:
    parent._modules.clear()
    parent._modules.update(children)
