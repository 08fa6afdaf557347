"""Read a module as a linear layer, x·Wᵀ + b: torch's, or anybody's of which a probe shows that it computes this."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import buffers_of, children_of, parameters_of
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.anatomy.kinds import is_producer

_PROBES = ((1e-3, (5,)), (1.0, (2, 3)), (1e3, (5,)))
"""Sizes of numbers, which something like a clamp would show, and shapes before the features."""


@dataclass(frozen=True)
class LinearLayer:
    """How a linear layer holds its weight: (outputs, inputs) as torch does, or transposed, (inputs, outputs)."""

    inputs: int
    outputs: int
    is_transposed: bool = False


def read_linear(module: nn.Module) -> LinearLayer | None:
    """What a module is as a linear layer; None where it is none, or does more.

    A class that is not torch's has to hold a `weight`, perhaps a `bias`, and nothing else, and has to compute
    the right numbers for several weights, biases and inputs. Without a bias, it has to use one that it is given.

    >>> read_linear(nn.Linear(3, 4))
    LinearLayer(inputs=3, outputs=4, is_transposed=False)
    >>> class Doubled(nn.Linear):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> read_linear(Doubled(3, 4))
    """
    if isinstance(module, nn.Linear) and is_producer(module):
        return LinearLayer(module.in_features, module.out_features)
    weight, bias = parameters_of(module).get("weight"), parameters_of(module).get("bias")
    if not _may_be_linear(module) or weight is None or is_lazy(weight) or weight.dim() != 2:
        return None
    rows, columns = weight.shape
    for layer in (LinearLayer(columns, rows), LinearLayer(rows, columns, is_transposed=True)):
        if (bias is None or bias.shape == (layer.outputs,)) and _computes(module, layer):
            return layer
    return None


def _may_be_linear(module: nn.Module) -> bool:
    """Whether it holds what a linear layer holds, and nothing else that could come into its output."""
    if "forward" in vars(module) or "bias" not in parameters_of(module) or is_producer(module):
        return False
    others = [*children_of(module).values(), *buffers_of(module).values()]
    return parameters_of(module).keys() == {"weight", "bias"} and all(other is None for other in others)


def _computes(module: nn.Module, layer: LinearLayer) -> bool:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64, device="cpu")

    for size, leading in _PROBES:
        weight, bias = random(layer.outputs, layer.inputs) * size, random(layer.outputs)
        x = random(*leading, layer.inputs) * size
        try:
            y = _output(module, weight.T.contiguous() if layer.is_transposed else weight, bias, x)
        except Exception:  # noqa: BLE001  somebody's forward
            if len(leading) > 1:  # it takes 2-D inputs alone
                continue
            return False
        expected = x @ weight.T + bias
        if not (isinstance(y, Tensor) and y.dtype == x.dtype and y.shape == expected.shape):
            return False
        if not torch.allclose(y, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max())):
            return False
    return True


def _output(module: nn.Module, weight: Tensor, bias: Tensor, x: Tensor) -> object:
    """What a copy of a module with other parameters computes in evaluation, without its hooks."""
    new = {"weight": nn.Parameter(weight), "bias": nn.Parameter(bias)}
    held = parameters_of(module)
    twin = deepcopy(module, {id(held[name]): p for name, p in new.items() if held[name] is not None})
    for name, parameter in new.items():
        twin.register_parameter(name, parameter)
    with torch.no_grad(), same_random_numbers(module):
        return type(twin).forward(twin.eval(), x)
