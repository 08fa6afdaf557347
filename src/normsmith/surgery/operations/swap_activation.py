"""Replace a network's activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from normsmith.anatomy.describe import shown
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.kinds import is_activation
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Remark
from normsmith.anatomy.trace import trace
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.placement.installer import find
from normsmith.surgery.placement.search import hidden_activations
from normsmith.surgery.plans.edits import ModuleEdit
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.plan import Change, Plan

_SWAPS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def swap_activation(model: nn.Module, activation: str, *, batch: Any = None, forward: Forward = call) -> Plan:
    """Plan to replace every activation by "relu", "tanh" or "sigmoid".

    Activations after the last layer with weights are the network's output and stay, as do gates (squeeze and
    excitation) and those that are what is asked for. Mode, hooks and norms that hang on an activation go over to
    the new one. Functions (`F.relu`) are refused: there is no module to replace.

    Args:
        batch, forward: an input, to follow one forward; needed where code is dynamic.

    Raises:
        InputError: another name.
        SurgeryError: the model has no activation, or cannot be followed.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Sigmoid())
    >>> [change.path for change in swap_activation(model, "tanh").changes]
    ['1']
    """
    if activation not in _SWAPS:
        raise InputError(f"activation must be one of {', '.join(_SWAPS)}, got {activation!r}")
    graph, locations, kind = (
        trace(model, batch, forward=forward),
        Locations(model),
        type(_SWAPS[activation]()),
    )
    hidden = hidden_activations(graph)
    swaps, refusals, kept = list[str](), list[tuple[str, str]](), list[tuple[str, str]]()
    for event in hidden:
        if event.module is None:
            refusals.append((event.path, f"its forward calls the function {event.name}; make it a module"))
    for module, (path, *_) in locations.paths.items():
        if not is_activation(module):
            continue
        places = {event in hidden for event in graph.of(module)}
        if places == {False}:
            kept.append((path, f"{type(module).__name__} is the network's output, or a gate"))
        elif type(module) is kind:
            kept.append((path, f"it is {kind.__name__} already"))
        elif (reason := _obstacle(module, places, locations)) is not None:
            refusals.append((path, reason))
        else:
            swaps.append(path)
    if not (hidden or refusals):
        seen = "".join(f"; {path}: {reason}" for path, reason in kept[:3])
        raise SurgeryError(
            f"found no activation in {type(model).__name__}: looked for nn.ReLU, F.relu and the like, with layers "
            f"that have weights after them{seen}"
        )
    return swapped(model, activation, swaps, list(dict.fromkeys(refusals)), kept)


@operation
def swapped(
    model: nn.Module,
    activation: str,
    paths: Sequence[str],
    refusals: Sequence[Sequence[str]] = (),
    kept: Sequence[Sequence[str]] = (),
) -> Plan:
    """Plan to replace the activations at some paths: what plans of `swap_activation` are repeated by, without data.

    Raises SurgeryError for a model that has not the modules.

    >>> swapped(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), "tanh", ["1"]).apply()[1]
    Tanh()
    """
    locations, changes, edits = Locations(model), list[Change](), list[ModuleEdit]()
    for path in paths:
        old, new = find(model, path), _SWAPS[activation]()
        new._modules.update(old._modules)  # a norm that a hook calls
        changes.append(Change(path, shown(old), shown(new), "asked for", locations.paths[old][1:]))
        edits.append(ModuleEdit(locations.holders[old], old, new))
    return Plan(
        f"{activation} as activation",
        model,
        tuple(changes),
        tuple(Remark(*refusal) for refusal in refusals),
        tuple(Remark(*remark) for remark in kept),
        edits=tuple(edits),
    )


def _obstacle(activation: nn.Module, places: set[bool], locations: Locations) -> str | None:
    if not places:
        return "this forward does not come by it"
    if False in places:
        return "it is the network's output, or a gate, at another call"
    return locations.held_by(activation, "swapping")
