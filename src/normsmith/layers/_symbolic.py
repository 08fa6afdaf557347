"""Layers in a graph that `torch.fx` traces: nodes of it, as torch's own layers are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy


def is_symbol(value: object) -> bool:
    """Whether a tracer passes a symbol where a tensor is expected."""
    return isinstance(value, Proxy)


def call_in_graph(layer: nn.Module, symbol: Any, *arguments: Any) -> Tensor:
    """Put a call of the layer into the graph of a symbol: the code of the layer needs values, which symbols lack."""
    path = symbol.tracer.path_of_module(layer)
    called: Tensor = symbol.tracer.create_proxy("call_module", path, (symbol, *arguments), {})
    return called
