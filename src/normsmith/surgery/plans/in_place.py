"""Whether a change makes something overwritten that others still need: the same change, with nothing in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from normsmith.anatomy.kinds import is_in_place


@contextmanager
def nothing_in_place(model: nn.Module) -> Iterator[bool]:
    """A block in which no layer of a model overwrites its input; gives whether any of them would.

    Layers that say so by `inplace=True`; what a forward's own code overwrites it goes on overwriting.

    >>> import torch
    >>> x, layer = torch.tensor([-1.0]), nn.ReLU(inplace=True)
    >>> with nothing_in_place(layer) as any_would:
    ...     _ = layer(x)
    >>> x, any_would, layer.inplace
    (tensor([-1.]), True, True)
    """
    writing: list[Any] = [module for module in model.modules() if is_in_place(module)]
    for module in writing:
        module.inplace = False
    try:
        yield bool(writing)
    finally:
        for module in writing:
            module.inplace = True
