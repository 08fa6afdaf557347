"""The edits of an `nn.Sequential`: children are added, moved and removed, and all others keep name and order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from torch import nn

from normsmith._torch import children_of
from normsmith.surgery.plans.edits import Edit


class Rearrangement(Edit):
    """Add, move and remove children of a module; all others keep name and order.

    `place` and `remove` note steps, in order. `do` takes all of them at once, in linear time.
    """

    def __init__(self, parent: nn.Module) -> None:
        self.parent = parent
        self._steps: list[_Step] = []
        self._required: dict[str, nn.Module | None] = {}
        """The children, by name, that must be there for the steps; None: no child of this name."""
        self._before: dict[str, nn.Module | None] = {}

    def place(self, name: str, child: nn.Module, neighbour: str, *, after: bool) -> None:
        """Put a child right before or after another; one that is there already under that name moves."""
        for seen in (name, neighbour):
            self._required.setdefault(seen, children_of(self.parent).get(seen))
        self._steps.append(_Step(name, child, neighbour, after))

    def remove(self, name: str) -> None:
        """Take a child out; the names of the others stay."""
        self._required.setdefault(name, children_of(self.parent)[name])
        self._steps.append(_Step(name, None))

    def is_possible(self) -> bool:
        return self._holds(self._required)

    def is_undoable(self) -> bool:
        return self._holds({step.name: step.child for step in self._steps})

    def do(self) -> None:
        self._before = dict(children_of(self.parent))
        try:
            _become(self.parent, self._after())
        except BaseException:  # an interrupt between the old children and the new ones
            _become(self.parent, self._before)
            raise

    def undo(self) -> None:
        present, touched = children_of(self.parent), {step.name for step in self._steps}
        old = {name: child for name, child in self._before.items() if name in touched or name in present}
        kept = {name: child for name, child in present.items() if name not in touched}
        _become(self.parent, {**old, **kept})

    def touches(self) -> Iterable[nn.Module]:
        return (self.parent,)

    def _holds(self, children: Mapping[str, nn.Module | None]) -> bool:
        return all(children_of(self.parent).get(name) is child for name, child in children.items())

    def _after(self) -> dict[str, nn.Module | None]:
        """The children after all steps: a linked list while they move."""
        children: dict[str, nn.Module | None] = dict(children_of(self.parent))
        names: list[str | None] = [None, *children, None]
        following = dict(pairwise(names))
        preceding = {later: name for name, later in following.items()}

        def link(name: str | None, later: str | None) -> None:
            following[name], preceding[later] = later, name

        for step in self._steps:
            if step.name in children:
                link(preceding.pop(step.name), following.pop(step.name))
                del children[step.name]
            if step.child is not None:
                first = step.neighbour if step.after else preceding[step.neighbour]
                last = following[first]
                link(first, step.name)
                link(step.name, last)
                children[step.name] = step.child
        ordered: dict[str, nn.Module | None] = {}
        name = following[None]
        while name is not None:
            ordered[name] = children[name]
            name = following[name]
        return ordered


class _Step(NamedTuple):
    name: str
    child: nn.Module | None
    """None: the child of this name is removed."""
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
        return all(children_of(parent).get(name) is child for parent, name in self.holders)

    def _put(self, child: nn.Module) -> None:
        for parent, name in self.holders:
            children_of(parent)[name] = child


def put_back(entries: dict[Any, Any], before: Mapping[Any, Any], key: Any) -> None:
    """Put a removed entry back to where it was `before` among those that are still there.

    >>> entries = {"b": 2, "new": 4}
    >>> put_back(entries, {"a": 1, "b": 2, "gone": 3}, "a")
    >>> entries
    {'a': 1, 'b': 2, 'new': 4}
    """
    if key not in before:
        return
    restored = {**entries, key: before[key]}
    order = [name for name in before if name in restored]
    rest = [name for name in restored if name not in before]
    entries.clear()
    entries.update({name: restored[name] for name in (*order, *rest)})


def _become(parent: nn.Module, children: Mapping[str, nn.Module | None]) -> None:
    children_of(parent).clear()
    children_of(parent).update(children)
