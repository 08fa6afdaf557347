"""Follow the data through a model symbolically, without running it, by torch.fx."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx, nn

from normsmith._text import error_text
from normsmith.anatomy.events import EventLog
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.hooks import call_with_attached_norms
from normsmith.anatomy.isolation import garbage_collector_paused
from normsmith.anatomy.kinds import is_opaque, plain_name
from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError


class _Tracer(fx.Tracer):
    """A tracer of torch.fx that looks into the same modules as a trace by running, and counts calls."""

    proxy_buffer_attributes = True
    """A buffer that the forward reads is an event, as a parameter is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[nn.Module] = Counter()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if _has_hidden_calls(m):
            raise SurgeryError(
                f"{type(m).__name__} {module_qualified_name} decides by its input what it calls"
            )
        return is_opaque(m)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.calls[m] += 1
        if not is_opaque(m):
            return super().call_module(m, forward, args, kwargs)
        inner = super().call_module  # a leaf becomes a node and is not called; what is attached to it is
        return call_with_attached_norms(m, lambda *a, **k: inner(m, forward, a, k), args, kwargs)


def followed_by_symbols(model: nn.Module) -> Graph:
    """The graph of a model's forward, whatever the input.

    Raises:
        SurgeryError: the forward decides by its data what to call, or is otherwise beyond torch.fx.
    """
    tracer, log = _Tracer(), EventLog()
    with preserved(model), garbage_collector_paused():
        try:
            traced = tracer.trace(model)
        except Exception as error:
            reason = error_text(error)
            raise SurgeryError(
                f"the forward of {type(model).__name__} cannot be followed without data ({reason}); give a batch"
            ) from error
    known: dict[fx.Node, Event] = {}
    outputs: tuple[Event, ...] = ()
    for node in traced.nodes:
        sources = [known[source] for source in _arguments(node) if source in known]
        if node.op == "output":
            outputs = tuple(dict.fromkeys(sources))
        elif node.op == "placeholder":
            known[node] = log.add("input", "", str(node.target))
        elif node.op == "get_attr":
            known[node] = log.add("parameter", str(node.target), "parameter")
        elif node.op == "call_module":
            module = model.get_submodule(str(node.target))
            known[node] = log.add("module", str(node.target), type(module).__name__, sources, module)
        else:
            target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            known[node] = log.add("function", _scope(node), plain_name(target), sources)
    calls = {model: 1, **tracer.calls}
    return Graph(tuple(log.events), outputs, calls, "symbols")


def _arguments(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments, each as often as it is there."""
    nodes: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), nodes.append)
    return nodes


def _scope(node: fx.Node) -> str:
    """The path of the module whose forward makes the call."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _has_hidden_calls(module: nn.Module) -> bool:
    """Whether a module is a composite of torch's, such as a transformer layer, that torch.fx cannot look into."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return (
        type(module).__module__.startswith("torch.nn.")
        and not isinstance(module, containers)
        and not is_opaque(module)
    )
