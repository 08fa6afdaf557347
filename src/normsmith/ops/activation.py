"""Activations that may follow the norm: forward, and the gradient from the pre-activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from normsmith._choices import did_you_mean
from normsmith.errors import InputError

_aten = torch.ops.aten


class Activation(NamedTuple):
    """An elementwise function and its chain rule: `backward(gradient, pre_activation)`."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "relu": Activation(F.relu, lambda g, x: _aten.threshold_backward(g, x, 0)),
        "leaky_relu": Activation(F.leaky_relu, lambda g, x: _aten.leaky_relu_backward(g, x, 0.01, False)),
        "silu": Activation(F.silu, _aten.silu_backward),
        "gelu": Activation(F.gelu, _aten.gelu_backward),
        "hardswish": Activation(F.hardswish, _aten.hardswish_backward),
        "sigmoid": Activation(torch.sigmoid, lambda g, x: _aten.sigmoid_backward(g, torch.sigmoid(x))),
        "tanh": Activation(torch.tanh, lambda g, x: _aten.tanh_backward(g, torch.tanh(x))),
    }
)


def activation_named(name: str | None) -> Activation | None:
    """Look an activation up; None stands for the identity.

    >>> activation_named("relu").forward(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])

    Raises:
        InputError: the name is not in the table.
    """
    if name is None:
        return None
    if name not in ACTIVATIONS:
        raise InputError(
            f"activation: expected one of {', '.join(ACTIVATIONS)}, or None; got {name!r}"
            f"{did_you_mean(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]
