"""New memory without what `torch.empty` does before it asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Empty = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]
"""Makes a tensor of a shape, strides and a dtype."""
_guards: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)


def _empty_on_cpu(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")


empty_on_cpu: _Empty = getattr(_guards, "_empty_strided_cpu", _empty_on_cpu)
"""A new tensor on the CPU, of a shape and strides that are plain tuples; nothing is written to it.

It is what the compiler's own code calls, in half the time of `torch.empty_strided`, and no dispatch mode sees it. Needs
`torch._C._dynamo.guards._empty_strided_cpu`; where it is missing, `torch.empty_strided` serves.
"""
