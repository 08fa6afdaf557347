"""The bias of a layer that a norm follows: redundant before a mean is subtracted, needed when the norm goes."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from normsmith.anatomy.kinds import channels
from normsmith.anatomy.remark import Remark
from normsmith.surgery.plans.edits import Edit, ParameterEdit
from normsmith.surgery.plans.plan import Change


def uses(model: nn.Module) -> Counter[int]:
    """How many places of a model hold each parameter, by the parameter's id."""
    return Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)


def kept_bias(held: Counter[int], path: str, layer: nn.Module) -> Remark | None:
    """The remark why a layer's redundant bias stays, if it has to."""
    bias = layer._parameters.get("bias")
    if bias is not None and held[id(bias)] == 1:
        return None
    return Remark(f"{path}.bias", "redundant, but parametrized or shared with another layer")


def removed_bias(path: str, layer: nn.Module, norm: nn.Module) -> tuple[Change, Edit]:
    """The edit that removes a layer's bias before a norm."""
    why = f"{type(norm).__name__} after it subtracts any constant"
    return Change(f"{path}.bias", "bias", "no bias", why), ParameterEdit(
        layer, "bias", layer._parameters["bias"], None
    )


def restored_bias(path: str, layer: nn.Module, norm: str) -> tuple[Change, Edit]:
    """The edit that gives a layer without a bias one of zeros, as a norm after it had one."""
    weight = next(p for p in layer.parameters() if p.is_floating_point())
    zeros = torch.zeros(channels(layer), dtype=weight.dtype, device=weight.device)
    bias = nn.Parameter(zeros, requires_grad=any(p.requires_grad for p in layer.parameters()))
    why = f"{norm} after it, which goes, had one"
    return Change(f"{path}.bias", "no bias", "bias", why), ParameterEdit(layer, "bias", None, bias)
