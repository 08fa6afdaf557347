"""Put norms in, take them out, swap activations: in `nn.Sequential`s, nested too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normsmith.errors import InputError
from normsmith.surgery.draft import Draft
from normsmith.surgery.flow import Flow, Step
from normsmith.surgery.kinds import has_own_forward, is_norm, is_producer
from normsmith.surgery.norms import Norm, channels, check_norm, make_norm
from normsmith.surgery.operation import operation
from normsmith.surgery.plan import Plan

_SWAPS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@operation
def insert(model: nn.Module, norm: Norm, where: str = "before", **options: Any) -> Plan:
    """Plan a norm before or after each activation of a model.

        before: act(norm(W·x))          after: norm(act(W·x + b))

    `norm` is "batch", "renorm", "layer", "group" (`make_norm` says which layer each is) with `options` for
    its constructor (`ghost_batch_size`, `total_steps`, `eps`, …), or a callable (num_features, producer) →
    module. Activations behind the last layer with weights are the network's output and get none. Each norm
    has the dtype, device and mode of the layer that feeds it.

    A batch norm or renorm right behind a linear layer or convolution subtracts whatever constant its bias
    adds, so that bias is removed; the weight stays the same tensor. Layer and group norm subtract a mean over
    channels, in which a bias of each channel is no constant: there it stays.

    Training and inference: the inserted norms' own. Raises InputError for an unknown norm, `where` or options
    beside a callable, SurgeryError when the model has no activation to put a norm at. What cannot be done is in
    the plan's refusals.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> insert(model, "layer").apply()
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): LayerNorm((8,), eps=1e-05, ...)
      (2): ReLU()
      (3): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    check_norm(norm, options)
    if where not in {"before", "after"}:
        raise InputError(f"where must be 'before' or 'after', got {where!r}")
    name = norm if isinstance(norm, str) else getattr(norm, "__name__", type(norm).__name__)
    draft = Draft(model, f"{name} norm {where} each activation", "activation")
    for flow, index, step in draft.hidden_activations():
        _insert_at(draft, flow, index, step, norm, where, options)
    return draft.plan()


@operation
def strip(model: nn.Module) -> Plan:
    """Plan to take every norm out of a model.

    Batch, instance, layer, group and RMS norms and normsmith's own are removed with their affine and
    statistics; what they did is not folded into the weights. A linear layer or convolution without a bias
    right before a norm that had one gets a bias again, of zeros. A model without norms gives an empty plan.

    >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    >>> strip(model).apply()
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    draft = Draft(model, "without norms", "norm")
    for flow, index, step in draft.steps(is_norm):
        if draft.uses(step.module) > 1:
            draft.refuse(step.path, "the same norm is used in several places")
        elif has_own_forward(step.module):
            kind = type(step.module).__name__
            draft.refuse(step.path, f"{kind} has a forward of its own and may do more than normalise")
        else:
            draft.replace(step, [], "nothing", "asked for")
            _restore_bias(draft, flow, index, step.module)
    return draft.plan()


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


def _insert_at(
    draft: Draft, flow: Flow, index: int, step: Step, norm: Norm, where: str, options: dict[str, Any]
) -> None:
    side: Literal[-1, 1] = -1 if where == "before" else 1
    beside = flow.neighbour(index, side)
    if beside is not None and is_norm(beside.module):
        kind = type(beside.module).__name__
        draft.refuse(step.path, f"{kind} {beside.path} is {where} it already; strip the norms first")
        return
    source = flow.producer(index)
    if source is None:
        draft.refuse(
            step.path,
            "its number of channels is not known: no linear layer or convolution leads to it through layers "
            "that keep them",
        )
        return
    made = make_norm(norm, source.module, options)
    draft.adopt(made)
    new = [made, step.module] if side < 0 else [step.module, made]
    draft.replace(
        step, new, ", ".join(map(str, new)), f"{type(source.module).__name__} {source.path} feeds it"
    )
    if side < 0 and isinstance(made, _BatchNorm) and beside is not None and is_producer(beside.module):
        _remove_bias(draft, beside, made)


def _remove_bias(draft: Draft, source: Step, norm: nn.Module) -> None:
    layer = source.module
    if getattr(layer, "bias", None) is None:
        return
    bias = layer._parameters.get("bias")
    if bias is None or draft.uses(bias) > 1:
        draft.keep(f"{source.path}.bias", "redundant, but parametrized or shared with another layer")
    elif draft.uses(layer) > 1:
        draft.refuse(source.path, "it is used in several places, and its bias is redundant here only")
    else:
        why = f"{type(norm).__name__} behind it subtracts any constant"
        draft.set_bias(source, bias, None, why)


def _restore_bias(draft: Draft, flow: Flow, index: int, norm: nn.Module) -> None:
    source = flow.neighbour(index, -1)
    if source is None or not is_producer(source.module) or getattr(norm, "bias", None) is None:
        return
    layer = source.module
    weight: Any = layer.weight
    if getattr(layer, "bias", None) is not None:
        return
    if draft.uses(layer) > 1:
        draft.refuse(source.path, "it is used in several places and would get a bias in each of them")
        return
    zeros = torch.zeros(channels(layer), dtype=weight.dtype, device=weight.device)
    bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
    draft.set_bias(source, None, bias, f"{type(norm).__name__} behind it, which is removed, had one")


def _has_hooks(module: nn.Module) -> bool:
    return any(value for name, value in vars(module).items() if name.endswith("_hooks"))
