"""Where it is decided that a layer's bias is redundant, or is needed again: before a norm that subtracts a mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from normsmith._torch import parameters_of
from normsmith.anatomy.kinds import channels
from normsmith.anatomy.locations import find
from normsmith.anatomy.remark import Remark
from normsmith.surgery.plans.edits import Edit, ParameterEdit
from normsmith.surgery.plans.plan import Change


class Biases:
    """Collects, for one plan, the biases that go because a norm comes after them, and those that come back.

    A batch norm right after a linear layer or convolution subtracts whatever constant the bias adds: there the bias
    is redundant. Where a norm with a β goes away, a layer without a bias gets one of zeros, which can learn the β.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._uses = Counter(
            id(p) for module in model.modules() for p in parameters_of(module).values() if p is not None
        )
        self.edits: list[Edit] = []
        self.kept: list[Remark] = []

    def remove(self, path: str, norm: nn.Module) -> Iterator[Change]:
        """Remove the bias of the layer at `path`, after which a norm comes; one that is not its own stays."""
        layer = find(self._model, path)
        bias = parameters_of(layer).get("bias")
        if bias is None or self._uses[id(bias)] > 1:
            self.kept.append(
                Remark(f"{path}.bias", "redundant, but parametrized or shared with another layer")
            )
            return
        self.edits.append(ParameterEdit(layer, "bias", bias, None))
        yield Change(
            f"{path}.bias", "bias", "no bias", f"{type(norm).__name__} after it subtracts any constant"
        )

    def restore(self, path: str, norm: str) -> Iterator[Change]:
        """Give the layer at `path` a bias of zeros, since a norm of this kind, which had one, goes away after it."""
        layer = find(self._model, path)
        weight = next(p for p in layer.parameters() if p.is_floating_point())
        zeros = torch.zeros(channels(layer), dtype=weight.dtype, device=weight.device)
        bias = nn.Parameter(zeros, requires_grad=any(p.requires_grad for p in layer.parameters()))
        self.edits.append(ParameterEdit(layer, "bias", None, bias))
        yield Change(f"{path}.bias", "no bias", "bias", f"{norm} after it, which goes, had one")
