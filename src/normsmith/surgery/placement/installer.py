"""Norms given their installer: the edits that put them at places or take them away, and what they are called there."""

from __future__ import annotations

import re

from torch import nn

from normsmith.anatomy.describe import shown
from normsmith.anatomy.hooks import is_attached
from normsmith.anatomy.kinds import is_sequential
from normsmith.anatomy.locations import Locations, find
from normsmith.surgery.placement.hooks import AttachEdit, DetachEdit
from normsmith.surgery.placement.places import Place
from normsmith.surgery.placement.sequential import Rearrangement, SlotEdit
from normsmith.surgery.plans.edits import Edit, ModuleEdit


class Installer:
    """Collects the installer of one plan; no child that is there already gets another name."""

    def __init__(self, model: nn.Module, locations: Locations) -> None:
        self._model, self._sites = model, locations
        self.edits: list[Edit] = []
        self._taken: dict[nn.Module, set[str]] = {}
        self._rearranged: dict[nn.Module, Rearrangement] = {}

    def put(self, place: Place, norm: nn.Module) -> str:
        """Seat a norm; its path is returned."""
        host = find(self._model, place.host)
        if place.side == "replaces":
            self.edits.append(ModuleEdit(self._sites.holders[host], host, norm))
            return place.host
        after = place.side == "after"
        if place.in_sequence:
            ((parent, name),) = self._sites.holders[host]
            new = self._free(f"{name}_norm", parent)
            self._children_of(parent).place(new, norm, name, after=after)
            return place.host.removesuffix(name) + new
        new = self._free("norm" if after else "input_norm", host)
        self.edits.append(AttachEdit(host, new, norm, place.side, channels_last=place.signal.channels_last))
        return f"{place.host}.{new}".removeprefix(".")

    def clear(self, norm: nn.Module) -> str:
        """Free all installer of a norm: what is left there is returned, in words."""
        holders = self._sites.holders[norm]
        if len(holders) == 1:
            ((parent, name),) = holders
            if is_attached(parent, name):
                self.edits.append(DetachEdit(parent, name))
                return "nothing"
            if _is_inserted(parent, name):
                self._children_of(parent).remove(name)
                return "nothing"
        empty = nn.Identity()
        self.edits.append(ModuleEdit(holders, norm, empty))
        return shown(empty)

    def move(self, norm: nn.Module, place: Place) -> str:
        """Give a norm, which keeps its hooks and mode, another seat; its path there is returned."""
        host, ((parent, name),) = find(self._model, place.host), self._sites.holders[norm]
        if place.in_sequence and self._sites.holders[host][0][0] is parent and not is_attached(parent, name):
            neighbour = self._sites.holders[host][0][1]
            self._children_of(parent).place(name, norm, neighbour, after=place.side == "after")
            return self._sites.paths[norm][0]
        if is_attached(parent, name):
            self.edits.append(DetachEdit(parent, name))
        elif _is_inserted(parent, name):
            self._children_of(parent).remove(name)
        else:
            self.edits.append(SlotEdit(((parent, name),), norm, nn.Identity().train(norm.training)))
        if place.side == "replaces":
            self.edits.append(SlotEdit(self._sites.holders[host], host, norm))
            return place.host
        return self.put(place, norm)

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
    """Whether a child has a name as norms get that are put into a Sequential; none of its code can ask for it."""
    return is_sequential(parent) and re.fullmatch(r".+_norm\d*", name) is not None
