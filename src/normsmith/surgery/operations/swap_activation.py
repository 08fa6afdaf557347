"""Replace a network's activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from normsmith._choices import did_you_mean
from normsmith._torch import children_of
from normsmith.anatomy.aliasing import read_in_place
from normsmith.anatomy.describe import describe_module
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.graph import Graph
from normsmith.anatomy.kinds import is_activation
from normsmith.anatomy.locations import Locations, find
from normsmith.anatomy.read_batch_norm import fused_activation
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.trace import trace
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.placement.places import hidden_events
from normsmith.surgery.placement.search import hidden_activations
from normsmith.surgery.plans.edits import ModuleEdit
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Change, Plan

_SWAPS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}

_KEEPING_THEIR_RESULT = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.CELU, nn.SELU)
"""Activations whose gradients are computed from their results; all that is swapped in are."""


def swap_activation(model: nn.Module, activation: str, *, batch: Any = None, forward: Forward = call) -> Plan:
    """Plan to replace every activation by "relu", "tanh" or "sigmoid", or by "identity", which leaves none.

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
    return build(model, **_find(model, activation, batch, forward))


def _find(model: nn.Module, activation: str, batch: Any, forward: Forward) -> Decisions:
    """The activations that are swapped, those that stay, and those that should be swapped and cannot."""
    if activation not in _SWAPS:
        raise InputError(
            f"activation must be one of {', '.join(_SWAPS)}, got {activation!r}{did_you_mean(activation, _SWAPS)}"
        )
    graph, locations = trace(model, batch, forward=forward), Locations(model)
    kind = type(_SWAPS[activation]())
    hidden = hidden_activations(graph)
    paths, refusals, kept = list[str](), list[Refusal](), list[Remark]()
    for event in hidden:
        if event.module is None:
            reason = f"its forward calls the function {event.name}; make it a module"
            refusals.append(Refusal(event.path, reason))
    in_norms, within = _fused(graph)
    refusals += in_norms
    for module, (path, *_) in locations.paths.items():
        if not is_activation(module) or module in within:
            continue
        is_hidden = {event in hidden for event in graph.of(module)}
        if is_hidden == {False}:
            kept.append(Remark(path, f"{type(module).__name__} is the network's output, or a gate"))
        elif type(module) is kind:
            kept.append(Remark(path, f"it is {kind.__name__} already"))
        elif (
            reason_ := _obstacle(module, kind, is_hidden, locations) or _written(graph, module, kind)
        ) is not None:
            refusals.append(Refusal(path, reason_))
        else:
            paths.append(path)
    if not (hidden or refusals):
        seen = "".join(f"; {remark.path}: {remark.reason}" for remark in kept[:3])
        raise SurgeryError(
            f"found no activation in {type(model).__name__}: looked for nn.ReLU, F.relu and the like, with layers "
            f"that have weights after them{seen}"
        )
    return {
        "activation": activation,
        "paths": paths,
        "refusals": [asdict(refusal) for refusal in dict.fromkeys(refusals)],
        "kept": [asdict(remark) for remark in kept],
    }


@operation("swap_activation", find=_find)
def build(
    model: nn.Module,
    activation: str,
    paths: Sequence[str],
    refusals: Sequence[Mapping[str, str]] = (),
    kept: Sequence[Mapping[str, str]] = (),
) -> Plan:
    """Plan to replace the activations at some paths.

    Raises:
        SurgeryError: the model does not have the modules.

    >>> build(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), "tanh", ["1"]).apply()[1]
    Tanh()
    """
    locations, changes, edits = Locations(model), list[Change](), list[ModuleEdit]()
    for path in dict.fromkeys(paths):
        old, new = find(model, path), _SWAPS[activation]()
        children_of(new).update(children_of(old))  # a norm that a hook calls
        changes.append(
            Change(path, describe_module(old), describe_module(new), "asked for", locations.paths[old][1:])
        )
        edits.append(ModuleEdit(locations.holders[old], old, new))
    return Plan(
        f"{activation} as activation",
        model,
        tuple(changes),
        tuple(Refusal(**row) for row in refusals),
        tuple(Remark(**row) for row in kept),
        edits=tuple(edits),
    )


def _fused(graph: Graph) -> tuple[list[Refusal], set[nn.Module]]:
    """Why activations that are in one layer with a norm stay, and the modules in such layers."""
    hidden, refusals, within = hidden_events(graph), list[Refusal](), set[nn.Module]()
    for event in graph.having("norm"):
        name = None if event.module is None else fused_activation(event.module)
        if event.module is None or name is None:
            continue
        within.update(event.module.modules())
        if event in hidden:
            reason = f"its activation, {name}, is in one layer with a norm; make them two layers"
            refusals.append(Refusal(event.path, reason))
    return refusals, within


def _obstacle(
    activation: nn.Module, kind: type[nn.Module], is_hidden: set[bool], locations: Locations
) -> str | None:
    """Why an activation cannot be swapped, if so; `is_hidden` holds what each of its calls is."""
    if not is_hidden:
        return "this forward does not come by it"
    if False in is_hidden:
        return "it is the network's output, or a gate, at another call"
    for holder, name in locations.holders[activation]:
        chose_by_it = isinstance(holder, nn.TransformerEncoderLayer) and holder.activation_relu_or_gelu
        if chose_by_it and name == "activation":
            return "TransformerEncoderLayer chose its fast path by it when it was made; make a new layer with the other"
    bound = locations.why_not_replaceable(activation, "swapping")
    return bound or locations.code.why_bound(activation, kind())


def _written(graph: Graph, activation: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why an activation must stay the one that it is because of what is overwritten in place, if so.

    The new ones make a new tensor, which they keep for their gradients; an identity makes none.
    """
    for event in graph.of(activation):
        if (reason := read_in_place(graph, event)) is not None:
            return reason
        writers = graph.overwritten_by(event)
        if writers and kind is nn.Identity:
            return f"{writers[0].name} overwrites in place what it returns, which would be what an identity is given"
        if writers and not isinstance(activation, _KEEPING_THEIR_RESULT):
            return f"{writers[0].name} overwrites in place what it returns, which the new one needs for gradients"
    return None
