"""Replace a network's activations, in `nn.Sequential`s, nested too."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from normsmith.errors import InputError
from normsmith.surgery.draft import Draft
from normsmith.surgery.operation import operation
from normsmith.surgery.plan import Plan

_SWAPS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@operation
def swap_activation(model: nn.Module, activation: str) -> Plan:
    """Plan to replace every activation by "relu", "tanh" or "sigmoid".

    Activations behind the last layer with weights are the network's output and stay, as do those that are
    what is asked for. Raises InputError for another name, SurgeryError when the model has no activation.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Sigmoid())
    >>> [change.path for change in swap_activation(model, "tanh").changes]
    ['1']
    """
    if activation not in _SWAPS:
        raise InputError(f"activation must be one of {', '.join(_SWAPS)}, got {activation!r}")
    draft = Draft(model, f"{activation} as activation", "activation")
    for _, _, step in draft.hidden_activations():
        old, new = step.module, _SWAPS[activation]()
        if type(old) is type(new):
            draft.keep(step.path, f"it is {type(old).__name__} already")
        elif _has_hooks(old):
            draft.refuse(step.path, f"{type(old).__name__} has hooks, which would be lost")
        else:
            draft.replace(step, [new.train(old.training)], str(new), "asked for")
    return draft.plan()


def _has_hooks(module: nn.Module) -> bool:
    return any(value for name, value in vars(module).items() if name.endswith("_hooks"))
