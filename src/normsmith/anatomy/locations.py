"""Where the modules of a model are: all paths of each, and who else holds it, as parents that share a norm do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import nn

from normsmith._torch import children_of, is_compiled_in_place
from normsmith.anatomy.holders import Holders
from normsmith.anatomy.kinds import is_prepared
from normsmith.errors import SurgeryError
from normsmith.layers.domains import HasDomains
from normsmith.layers.models import checked_module
from normsmith.layers.scripted import give_places_back


def check_changeable(model: nn.Module) -> None:
    """Raise InputError for what is no model, and SurgeryError for a scripted one, whose code is no Python any more."""
    if isinstance(checked_module(model, "model"), torch.jit.ScriptModule):
        raise SurgeryError(
            "expected a model in Python, got a scripted one; change the model it was made from, and script that"
        )


_SIMPLE = {bool, int, float, str, type(None)}
_DEEPEST = 5
"""How many containers within each other are looked into; a container that holds itself has no end."""


class Locations:
    """The paths of every module of a model, and the modules that hold it.

    - `paths`: from each module to all its paths, the model itself at "".
    - `holders`: from each module to every (parent, name) by which it is registered.

    A module is shared if it has more than one holder: several parents, or one parent by several names.

    >>> norm = nn.BatchNorm1d(2)
    >>> locations = Locations(nn.Sequential(norm, nn.ReLU(), norm))
    >>> locations.paths[norm], [name for _, name in locations.holders[norm]]
    (('0', '2'), ['0', '2'])
    """

    def __init__(self, model: nn.Module) -> None:
        check_changeable(model)
        give_places_back(model)
        self.paths: dict[nn.Module, tuple[str, ...]] = {model: ("",)}
        self.holders: dict[nn.Module, tuple[tuple[nn.Module, str], ...]] = {model: ()}
        for path, module in model.named_modules(remove_duplicate=False):
            if path:
                self.paths[module] = (*self.paths.get(module, ()), path)
        for parent in self.paths:
            for name, child in children_of(parent).items():
                if child is not None:
                    self.holders[child] = (*self.holders.get(child, ()), (parent, name))
        self._attributes = dict(_plain_attributes(self))

    @cached_property
    def code(self) -> Holders:
        """What the forwards of the model's modules read of each other."""
        return Holders(next(iter(self.paths)))

    def plain_attribute(self, module: nn.Module) -> str | None:
        """The path of an attribute that holds a module beside torch's registration, such as a plain list; else None.

        torch does not replace a module there when it is replaced where it is registered.
        """
        return self._attributes.get(module)

    def with_domains(self, module: nn.Module) -> HasDomains | None:
        """The layer with domains that a norm is part of; None where it is part of none."""
        outer = [holder for holder, _ in self.holders[module]]
        outer += [
            holder for part in outer if isinstance(part, nn.ModuleDict) for holder, _ in self.holders[part]
        ]
        return next((holder for holder in outer if isinstance(holder, HasDomains)), None)

    def why_not_replaceable(self, module: nn.Module, doing: str) -> str | None:
        """The reason why a module cannot be replaced: something would go on using the old one. None if there is none.

        `doing` is what is to be done to the module, for the sentence: "folding", "converting".
        """
        attribute = self.plain_attribute(module)
        if attribute is not None:
            return f"{attribute} holds it as a plain Python attribute, which would go on using the old one"
        layer = self.with_domains(module)
        if layer is not None and doing != "converting":
            return f"it is part of {type(layer).__name__}; {one_domain(layer)}, before {doing}"
        for holder, _ in self.holders[module]:
            kind = type(holder)
            if kind.__name__ == "OptimizedModule":
                return f"it was compiled by itself; compile after {doing}"
            if kind.__module__.startswith(("torch.ao.", "torch.nn.intrinsic")):
                return f"it is part of {kind.__name__}, which computes with its insides"
        if is_compiled_in_place(module):
            return f"it was compiled by itself; compile after {doing}"
        return f"it is prepared for quantisation; prepare after {doing}" if is_prepared(module) else None


def one_domain(layer: HasDomains) -> str:
    """How to make a plain norm of a layer with domains, for reasons."""
    return f'take one domain, convert(model, to="batch", domain="{layer.domains[0]}")'


def _plain_attributes(locations: Locations) -> Iterator[tuple[nn.Module, str]]:
    """Modules of the model that are held by plain attributes of modules, each with the attribute's path."""
    for parent, (path, *_) in locations.paths.items():
        children = children_of(parent)
        for name, value in vars(parent).items():
            if value is children or type(value) in _SIMPLE:
                continue
            for module in _modules_in(value):
                if module in locations.paths:
                    yield module, f"{path}.{name}" if path else name


def _modules_in(value: Any, depth: int = 0) -> Iterator[nn.Module]:
    """The modules in an attribute's value: the value itself, or those in containers of containers."""
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
                yield from _modules_in(inner, depth + 1)


def find(model: nn.Module, path: str) -> nn.Module:
    """The module at a path of a model; SurgeryError where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise SurgeryError(f"expected a module at {path}, found none in {type(model).__name__}") from error
