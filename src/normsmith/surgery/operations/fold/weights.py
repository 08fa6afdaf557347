"""Weights of a linear layer or convolution that does its neighbour's batch norm too, computed in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch import ConvTranspose
from normsmith.anatomy.affine import Affine
from normsmith.anatomy.float64 import in_float64
from normsmith.anatomy.linear_layers import LinearLayer, read_linear


@dataclass
class Weights:
    """The weight and bias of a producer, in float64, as norms are folded into it.

    A linear layer's weight is (outputs, inputs) here, also where the layer itself holds it transposed.
    """

    producer: nn.Module
    weight: Tensor
    bias: Tensor
    linear: LinearLayer | None = None

    @classmethod
    def of(cls, producer: nn.Module) -> Weights:
        layer: Any = producer
        linear = read_linear(producer)
        weight = in_float64(layer.weight)
        if linear is not None and linear.is_transposed:
            weight = weight.T
        features = layer.out_channels if linear is None else linear.outputs
        bias = weight.new_zeros(features) if layer.bias is None else in_float64(layer.bias)
        return cls(producer, weight, bias, linear)

    def fold_after(self, norm: Affine) -> None:
        """Fold a norm that comes after: W ← scale·W and b ← scale·b + shift, per output channel."""
        if isinstance(self.producer, ConvTranspose):  # (in, out/groups, *kernel)
            self._scale_second(norm.scale, repeats=self.weight.shape[0] // self.producer.groups)
        else:
            self.weight = self.weight * _column(norm.scale, self.weight.dim())
        self.bias = self.bias * norm.scale + norm.shift

    def fold_before(self, norm: Affine) -> None:
        """Fold a norm that comes before: b ← b + Σ W·shift over inputs and kernel, W ← W·scale per input channel."""
        producer: Any = self.producer
        if isinstance(producer, ConvTranspose):
            taps = self.weight * _column(norm.shift, self.weight.dim())
            grouped = taps.reshape(producer.groups, -1, *taps.shape[1:]).flatten(
                3
            )  # (groups, in, out, kernel)
            self.bias = self.bias + grouped.sum((1, 3)).flatten()
            self.weight = self.weight * _column(norm.scale, self.weight.dim())
            return
        repeats = len(self.weight) // (1 if self.linear else producer.groups)
        before = self.weight
        self._scale_second(norm.shift, repeats)
        self.bias = self.bias + self.weight.flatten(1).sum(1)
        self.weight = before
        self._scale_second(norm.scale, repeats)

    def stored(self, beta: nn.Parameter | None = None) -> tuple[nn.Parameter, nn.Parameter]:
        """New parameters of the layer's dtype, device, memory format and `requires_grad`.

        A bias that is new trains if `beta` does, whose work it takes over; without one, if the weight does.
        """
        old: Any = self.producer.weight
        new = self.weight.T if self.linear and self.linear.is_transposed else self.weight
        weight = torch.empty_like(old, requires_grad=False).copy_(new)
        bias = self.bias.to(device=old.device, dtype=old.dtype)
        old_bias: Any = self.producer.bias
        before = next(one for one in (old_bias, beta, old) if one is not None)
        return nn.Parameter(weight, old.requires_grad), nn.Parameter(bias, before.requires_grad)

    def _scale_second(self, values: Tensor, repeats: int) -> None:
        """Multiply where dimension 0 is (group, `repeats`) and dimension 1 the channels of the group."""
        grouped = values.reshape(-1, self.weight.shape[1])  # (groups, channels of one)
        rows = grouped.repeat_interleave(repeats, 0)
        self.weight = self.weight * rows.reshape(*rows.shape, *(1,) * (self.weight.dim() - 2))


def _column(values: Tensor, dimensions: int) -> Tensor:
    return values.reshape(-1, *(1,) * (dimensions - 1))
