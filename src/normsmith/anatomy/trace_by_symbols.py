"""Follow the data through a model symbolically, without running it, by torch.fx."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from normsmith._text import error_text
from normsmith._torch import Dropout
from normsmith.anatomy.events import EventLog
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.hooks import call_with_attached_norms
from normsmith.anatomy.isolation import garbage_collector_paused
from normsmith.anatomy.kinds import RESHAPING, VIEWING_FUNCTIONS, is_in_place, is_opaque, plain_name
from normsmith.anatomy.memory import Memory, Part
from normsmith.anatomy.pooling import pooling_of
from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError

_NOT_WRITING = {"requires_grad_", "detach_", "retain_grad_", "share_memory_", "rename_"}
"""Methods whose names end in an underscore though they leave a tensor's values alone."""


_AUGMENTED = ("iadd", "isub", "imul", "itruediv", "ipow", "iand", "ior", "ixor")
_WRITING = {"setitem", *_AUGMENTED}
_VIEWING = (nn.Identity, *RESHAPING, Dropout)
"""Layers that may return their input, or a view of it."""


class _Value(fx.Proxy):
    """A result while a model is followed: `x += y` is seen as what it is, where torch.fx takes it for `x = x + y`."""


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[_Value, Any], Any]:
    def written(value: _Value, other: Any) -> Any:
        return value.tracer.create_proxy("call_function", function, (value, other), {})

    return written


for _name in _AUGMENTED:
    setattr(_Value, f"__{_name}__", _in_place(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    """A tracer of torch.fx that looks into the same modules as a trace by running, and counts calls."""

    proxy_buffer_attributes = True
    """A buffer that the forward reads is an event, as a parameter is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._opaque = {module for module in model.modules() if is_opaque(module)}
        self.calls: Counter[nn.Module] = Counter()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if _has_hidden_calls(m):
            raise SurgeryError(
                f"{type(m).__name__} {module_qualified_name} decides by its input what it calls"
            )
        return m in self._opaque

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.calls[m] += 1
        if m not in self._opaque:
            return super().call_module(m, forward, args, kwargs)
        inner = super().call_module  # a leaf becomes a node and is not called; what is attached to it is
        return call_with_attached_norms(m, lambda *a, **k: inner(m, forward, a, k), args, kwargs)


def followed_by_symbols(model: nn.Module) -> Graph:
    """The graph of a model's forward, whatever the input.

    Raises:
        SurgeryError: the forward decides by its data what to call, or is otherwise beyond torch.fx.
    """
    tracer, log = _Tracer(model), EventLog()
    with preserved(model), garbage_collector_paused():
        try:
            traced = tracer.trace(model)
        except Exception as error:
            reason = error_text(error)
            raise SurgeryError(
                f"the forward of {type(model).__name__} cannot be followed without data ({reason}); give a batch"
            ) from error
    return _Reader(model, log).graph(traced, {model: 1, **tracer.calls})


class _Reader:
    """Reads the nodes of torch.fx as events."""

    def __init__(self, model: nn.Module, log: EventLog) -> None:
        self._model, self._log, self._memory = model, log, Memory(log)

    def graph(self, traced: fx.Graph, calls: dict[nn.Module, int]) -> Graph:
        """All nodes as events."""
        outputs, written = tuple[Event, ...](), tuple[Event, ...]()
        for node in traced.nodes:
            if node.op == "output":
                outputs, written = self._taken(node)
            elif node.op == "placeholder":
                self._hold(node, self._log.add("input", "", str(node.target)))
            elif node.op == "get_attr":
                self._hold(node, self._log.add("parameter", str(node.target), "parameter"))
            else:
                self._call(node)
        events, outputs = tuple(self._log.events), tuple(dict.fromkeys(outputs))
        return Graph(events, outputs, calls, "symbols", tuple(dict.fromkeys(written)))

    def _call(self, node: fx.Node) -> None:
        """Make an event of a call of a module or function."""
        sources, by_writing = self._taken(node)
        module = self._model.get_submodule(str(node.target)) if node.op == "call_module" else None
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        written, base = _written(node, module, target), _base(node, module, plain_name(target))
        event = self._log.add(
            "function" if module is None else "module",
            _scope(node) if module is None else str(node.target),
            plain_name(target) if module is None else type(module).__name__,
            sources,
            module,
            writes=self._memory.overwritten(written),
            reads_written=by_writing,
            shares=bool(written) or base is not None,
            pooling=pooling_of(plain_name(target), node.args, node.kwargs) if module is None else None,
        )
        self._memory.write(written, event)
        same = written[0] if written else base if module is not None and base in self._memory else None
        if same is not None:
            self._memory.hold(node, event, *self._memory.place_of(same))
        elif base is not None and base in self._memory:
            self._memory.hold(node, event, self._memory.place_of(base)[0], Part())
        else:
            self._hold(node, event)

    def _hold(self, node: fx.Node, event: Event) -> None:
        """A node whose result lies in memory of its own."""
        self._memory.hold(node, event, node, Part())

    def _taken(self, node: fx.Node) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        """The events whose results are arguments, and those of them that have overwritten one."""
        read = [
            self._memory.read(source, _scope(node)) for source in _arguments(node) if source in self._memory
        ]
        return tuple(event for event, _ in read), tuple(event for _, written in read for event in written)


def _written(node: fx.Node, module: nn.Module | None, target: str) -> list[fx.Node]:
    """The argument that a call says it overwrites: `inplace=True`, `out=`, names such as "relu_" and "iadd"."""
    out = node.kwargs.get("out")
    if isinstance(out, fx.Node):
        return [out]
    first = next(iter(_arguments(node)), None)
    if module is not None:
        writes = is_in_place(module)
    else:
        underscore = target.endswith("_") and not target.endswith("__") and target not in _NOT_WRITING
        writes = underscore or target in _WRITING or node.kwargs.get("inplace") is True
    return [first] if writes and first is not None else []


def _base(node: fx.Node, module: nn.Module | None, name: str) -> fx.Node | None:
    """The argument in whose memory the result lies or may lie: that of a view, an identity, dropout in evaluation."""
    views = name in VIEWING_FUNCTIONS if module is None else isinstance(module, _VIEWING)
    return next(iter(_arguments(node)), None) if views else None


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
