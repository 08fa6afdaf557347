"""Layers in a graph that `torch.fx` traces: nodes of it, as torch's own layers are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy


def is_symbol(value: object) -> bool:
    """Whether a tracer passes a symbol where a tensor is expected."""
    return isinstance(value, Proxy)


def node(layer: nn.Module, symbol: Any, *arguments: Any) -> Tensor:
    """A call of the layer in the graph of the symbol: its own code depends on values, which a symbol has not."""
    path = symbol.tracer.path_of_module(layer)
    called: Tensor = symbol.tracer.create_proxy("call_module", path, (symbol, *arguments), {})
    return called
