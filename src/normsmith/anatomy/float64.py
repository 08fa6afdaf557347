"""Computing in float64, which not every device has."""

from __future__ import annotations

import torch
from torch import Tensor

_WITHOUT = frozenset(("mps",))
"""The kinds of devices that have no float64."""


def has_float64(device: torch.device) -> bool:
    """Whether tensors on a device can be float64.

    >>> has_float64(torch.device("cpu")), has_float64(torch.device("mps"))
    (True, False)
    """
    return device.type not in _WITHOUT


def in_float64(tensor: Tensor) -> Tensor:
    """The values of a tensor in float64, without gradients: where it is, or on the CPU if its device has no float64.

    >>> in_float64(torch.tensor(0.5))
    tensor(0.5000, dtype=torch.float64)
    """
    tensor = tensor.detach()
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()
