"""Follow the data through any model: symbolically, or through one real forward."""

from __future__ import annotations

from typing import Any

from torch import nn

from normsmith._text import error_text
from normsmith.anatomy.forward import Forward, call, check_runnable
from normsmith.anatomy.graph import Graph
from normsmith.anatomy.locations import check_changeable
from normsmith.anatomy.preserve import preserved
from normsmith.anatomy.recorder import Recorder
from normsmith.anatomy.symbols import followed_by_symbols
from normsmith.errors import SurgeryError


def trace(model: nn.Module, batch: Any = None, *, forward: Forward = call) -> Graph:
    """Follow the data through one forward of a model: which call of a module or function takes whose results.

    Without a batch the forward is followed symbolically (torch.fx), which dynamic code does not allow. With one,
    `forward(model, batch)` is run, once, in evaluation mode and without gradients: modules are seen by hooks,
    functions (`F.relu`, `x + y`, methods) as they are called, and tensors are known by identity. Layers of
    `torch.nn` and normsmith are single events; modules of others are looked into. Afterwards the model is as it
    was: mode, buffers, hooks, random state.

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
    if batch is None:
        return followed_by_symbols(model)
    check_runnable(model)
    recorder = Recorder(model)
    with preserved(model), recorder.recording():
        model.eval()
        recorder.take_inputs(batch)
        try:
            output = forward(model, batch)
        except Exception as error:
            raise SurgeryError(
                f"a forward in evaluation failed on this batch: {error_text(error)}"
            ) from error
        return recorder.graph(output)
