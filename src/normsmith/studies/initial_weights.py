"""Edits of a fresh network's weights: a good initialisation by the book or by data, and a gain on hidden layers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from normsmith import surgery
from normsmith.anatomy.graph import Event, is_recurrent
from normsmith.errors import StudyError, SurgeryError
from normsmith.layers import init
from normsmith.studies.arms import Arm, edit
from normsmith.studies.names import named
from normsmith.surgery.placement.search import hidden_activations
from normsmith.tasks import Task, build, example, forward_of

_CUT_OFF = {"relu", "relu6", "leakyrelu", "leaky_relu", "prelu", "elu", "gelu", "silu", "mish", "hardswish"}
"""Activations that let one half pass and cut off the other: He's variance suits them."""
_GAINS = {"tanh": 1.0, "sigmoid": 4.0}
"""Xavier's factor for activations that level off on both sides."""


def initialised(arm: Arm, method: str = "by activation") -> Arm:
    """The arm with good initial weights, applied after its other edits; see `initialise`."""
    return arm.but(arm.name, edit(initialise, method=method))


def weights_of(arm: Arm) -> str:
    """What an arm's initial weights are, for readers: the network's "own", or a method of `initialise`."""
    methods = [str(dict(e.arguments)["method"]) for e in arm.edits if e.function is initialise]
    return methods[-1] if methods else "own"


def scaled(arm: Arm, gain: float) -> Arm:
    """The arm with the weights of its hidden layers multiplied by `gain`; at 1 it is the arm itself."""
    if gain == 1.0:
        return arm
    return arm.but(f"{arm.name}, gain {gain:g}", edit(scale_hidden_weights, gain=gain))


@named("initialise")
def initialise(model: nn.Module, task: Task, method: str) -> nn.Module:
    """Draw good initial weights, whatever the network's own are.

    `method` is "by activation" (He's for ReLU and its kin, Xavier's for tanh and, times 4, for sigmoid, and by data
    where the activations are others or mixed) or "by data" (`layers.init.unit_variance_` on a batch of training
    data). Weights that are the same whatever the seed are pretrained, or meant to be so, and are left.
    """
    pretrained = _pretrained(task)

    def drawn(path: str, layer: Any) -> bool:
        return not _is_among(layer.weight, pretrained)

    kinds = activations_of(model, task) if method == "by activation" else set()
    if kinds and kinds <= _CUT_OFF:
        init.he_(model, only=drawn)
    elif len(kinds) == 1 and kinds <= _GAINS.keys():
        init.xavier_(model, _GAINS[next(iter(kinds))], only=drawn)
    else:
        batch, forward = example(task), forward_of(task)
        init.unit_variance_(model, lambda model: forward(model, batch), only=drawn)
    return model


def activations_of(model: nn.Module, task: Task) -> set[str]:
    """The names of a network's hidden activations, in lower case; none where its forward cannot be followed."""
    try:
        graph = surgery.trace(model, example(task), forward=forward_of(task))
    except SurgeryError:
        return set()
    return {event.name.lower() for event in hidden_activations(graph)}


@lru_cache(maxsize=8)
def are_drawn(task: Task) -> bool:
    """Whether some layer of a task's network has weights that depend on the seed, so that others may be drawn."""
    pretrained = _pretrained(task)
    return not all(_is_among(weight, pretrained) for weight in _matrices(build(task, 0)).values())


@lru_cache(maxsize=8)
def _pretrained(task: Task) -> tuple[Tensor, ...]:
    """The weights of a task's network that two seeds have in common."""
    first, second = (_matrices(build(task, seed)) for seed in (0, 1))
    return tuple(weight.detach() for path, weight in first.items() if torch.equal(weight, second[path]))


def _matrices(model: nn.Module) -> dict[str, Tensor]:
    """The weight matrices and kernels of a network that have data, by path."""
    return {
        path: weight
        for path, weight in model.named_parameters()
        if not nn.parameter.is_lazy(weight) and weight.dim() >= 2
    }


def _is_among(weight: Tensor, others: Iterable[Tensor]) -> bool:
    return any(weight.shape == other.shape and torch.equal(weight, other) for other in others)


def _recurs(event: Event) -> bool:
    """Whether an event is a recurrent layer, or what such a layer calls where the trace looks inside it."""
    return is_recurrent(event) or event.name in {"rnn_tanh", "rnn_relu", "lstm", "gru"}


@named("scale-hidden-weights")
def scale_hidden_weights(model: nn.Module, task: Task, gain: float) -> nn.Module:
    """Multiply the weight matrices and kernels of hidden layers by `gain`: those that an activation comes after.

    The output layer keeps its weights: their scale decides how large the outputs, and with them the loss, begin.

    Raises:
        StudyError: no weight has an activation after it.
    """
    graph = surgery.trace(model, example(task), forward=forward_of(task))
    ends = [*hidden_activations(graph), *filter(_recurs, graph.events)]
    owners = [event for event in graph.events if any(graph.leads_to(event, end) for end in ends)]
    paths = {event.path for event in owners if event.kind == "parameter"}
    modules = {event.module for event in owners if event.module is not None}
    weights = {
        id(weight): weight
        for path, weight in _matrices(model).items()
        if path in paths or any(weight is own for m in modules for own in m.parameters())
    }
    if not weights:
        raise StudyError(
            "expected a network with hidden layers, whose weights an activation comes after, got none"
        )
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(gain)
    return model
