"""The edits that put norms at places, move them or take them away, and the names that norms get there."""

from __future__ import annotations

import re

from torch import nn

from normsmith._text import path_text
from normsmith.anatomy.describe import describe_module
from normsmith.anatomy.hooks import is_attached
from normsmith.anatomy.kinds import is_sequential
from normsmith.anatomy.locations import Locations, find
from normsmith.errors import SurgeryError
from normsmith.surgery.placement.hooks import AttachEdit, DetachEdit
from normsmith.surgery.placement.places import Place
from normsmith.surgery.placement.sequential import Rearrangement, SlotEdit
from normsmith.surgery.placement.stand_in import by_itself, stand_in
from normsmith.surgery.plans.edits import Edit, ModuleEdit


class Installer:
    """Collects the edits of one plan that put, move and remove norms.

    No child that is there already gets another name. Within an `nn.Sequential` a norm becomes a child beside its host,
    elsewhere a child of its host that a hook applies.
    """

    def __init__(self, model: nn.Module, locations: Locations) -> None:
        self._model, self._locations = model, locations
        self.edits: list[Edit] = []
        self._taken: dict[nn.Module, set[str]] = {}
        self._rearranged: dict[nn.Module, Rearrangement] = {}

    def put(self, place: Place, norm: nn.Module) -> str:
        """Put a norm at a place, and return its path there."""
        host = find(self._model, place.host)
        if place.side == "replaces":
            self.edits.append(ModuleEdit(self._locations.holders[host], host, norm))
            return place.host
        after = place.side == "after"
        if place.in_sequence:
            parent, name = self._sequence_of(host)
            new = self._free(f"{name}_norm", parent)
            self._children_of(parent).place(new, norm, name, after=after)
            return place.host.removesuffix(name) + new
        new = self._free("norm" if after else "input_norm", host)
        last, unsqueeze = place.signal.channels_last, place.unsqueeze
        self.edits.append(AttachEdit(host, new, norm, place.side, channels_last=last, unsqueeze=unsqueeze))
        return f"{place.host}.{new}".removeprefix(".")

    def remove(self, norm: nn.Module, *, copies: bool = False, activation: nn.Module | None = None) -> str:
        """Take a norm out of the model, and return, in words, what is left in its place: `stand_in(copies)`.

        What stays of a norm that is fused with its activation is the `activation`.
        """
        holders = self._locations.holders[norm]
        if len(holders) == 1 and not copies and activation is None:
            ((parent, name),) = holders
            if is_attached(parent, name):
                self.edits.append(DetachEdit(parent, name))
                return "nothing"
            if _is_inserted(parent, name):
                self._children_of(parent).remove(name)
                return "nothing"
        left = stand_in(copies=copies) if activation is None else by_itself(activation)
        self.edits.append(ModuleEdit(holders, norm, left))
        return describe_module(left)

    def move(self, norm: nn.Module, place: Place, *, copies: bool = False) -> str:
        """Move a norm, which keeps its hooks and mode, to another place, and return its path there.

        What stands in its old place, if anything has to, is `stand_in(copies)`.
        """
        host, (parent, name) = find(self._model, place.host), self._only_holder(norm)
        if (
            place.in_sequence
            and self._locations.holders[host][0][0] is parent
            and not is_attached(parent, name)
        ):
            neighbour = self._locations.holders[host][0][1]
            if copies:
                self._children_of(parent).place(
                    self._free(f"{name}_copy", parent), stand_in(copies=True), name, after=False
                )
            self._children_of(parent).place(name, norm, neighbour, after=place.side == "after")
            return self._locations.paths[norm][0]
        if is_attached(parent, name) and not copies:
            self.edits.append(DetachEdit(parent, name))
        elif _is_inserted(parent, name) and not copies:
            self._children_of(parent).remove(name)
        else:
            empty = stand_in(copies=copies).train(norm.training)
            self.edits.append(SlotEdit(((parent, name),), norm, empty))
        if place.side == "replaces":
            self.edits.append(SlotEdit(self._locations.holders[host], host, norm))
            return place.host
        return self.put(place, norm)

    def _only_holder(self, module: nn.Module) -> tuple[nn.Module, str]:
        """The one module that holds another, and the child's name."""
        holders = self._locations.holders[module]
        if len(holders) != 1:
            path = path_text(self._locations.paths[module][0])
            raise SurgeryError(
                f"{path}: expected a module that one other holds, as where the plan was made; here {len(holders)} do; "
                "plan on this model itself"
            )
        return holders[0]

    def _sequence_of(self, host: nn.Module) -> tuple[nn.Module, str]:
        """The `nn.Sequential` that runs a host, and the host's name in it."""
        parent, name = self._only_holder(host)
        if not is_sequential(parent):
            path = path_text(self._locations.paths[host][0])
            raise SurgeryError(
                f"{path}: expected a child of an nn.Sequential, as where the plan was made, got one of "
                f"{type(parent).__name__}; plan on this model itself"
            )
        return parent, name

    def _children_of(self, parent: nn.Module) -> Rearrangement:
        if parent not in self._rearranged:
            self._rearranged[parent] = Rearrangement(parent)
            self.edits.append(self._rearranged[parent])
        return self._rearranged[parent]

    def _free(self, name: str, parent: nn.Module) -> str:
        taken = self._taken.setdefault(parent, set())
        free, number = name, 1
        while free in taken or hasattr(parent, free):
            number += 1
            free = f"{name}{number}"
        taken.add(free)
        return free


def _is_inserted(parent: nn.Module, name: str) -> bool:
    """Whether a child of a Sequential has the name of an inserted norm, for which no code of the Sequential asks."""
    return is_sequential(parent) and re.fullmatch(r".+_norm\d*", name) is not None
