"""Follow the data through any model: symbolically, or through one real forward."""

from __future__ import annotations

from typing import Any

from torch import nn

from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.graph import Graph
from normsmith.anatomy.locations import check_changeable
from normsmith.anatomy.trace_by_running import followed_by_forward
from normsmith.anatomy.trace_by_symbols import followed_by_symbols
from normsmith.layers.scripted import give_places_back


def trace(model: nn.Module, batch: Any = None, *, forward: Forward = call, preserve: bool = True) -> Graph:
    """Follow the data through one forward of a model: which call of a module or function takes whose results.

    Without a batch the forward is followed symbolically (torch.fx), which dynamic code does not allow. With one,
    `forward(model, batch)` is run, once, in evaluation mode and without gradients: modules are seen by hooks,
    functions (`F.relu`, `x + y`, methods) as they are called, and tensors are known by identity. Layers of
    `torch.nn` and normsmith are single events; modules of others are looked into. Afterwards the model is as it
    was: mode, buffers, hooks, random state. With `preserve=False` the caller sees to that, after a forward with a
    batch: it takes a copy of all tensors, which a caller may have made already.

    Raises:
        SurgeryError: the forward cannot be followed without a batch, or fails on it.

    >>> import torch
    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner = nn.Linear(4, 4)
    ...     def forward(self, x):
    ...         return x + torch.relu(self.inner(x))
    >>> graph = trace(nn.Sequential(Block(), nn.Tanh()))
    >>> for event in graph.events:
    ...     print(event.kind, event.path, event.name, [source.name for source in event.sources])
    input  input []
    module 0.inner Linear ['input']
    function 0 relu ['Linear']
    function 0 add ['input', 'relu']
    module 1 Tanh ['add']
    >>> [len(residual.branch) for residual in graph.residuals]
    [2]
    """
    check_changeable(model)
    give_places_back(model)
    if batch is None:
        return followed_by_symbols(model)
    return followed_by_forward(model, batch, forward, preserve=preserve)
