"""Follow the data through any model: symbolically, or through one real forward."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from normsmith.anatomy.forward import Forward, call, check_runnable, flat
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.hooks import called
from normsmith.anatomy.isolation import uncollected
from normsmith.anatomy.kinds import is_leaf, plain_name
from normsmith.anatomy.locations import check_changeable
from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError

_OURS = ("normsmith.layers.", "torch.ao.")


def trace(model: nn.Module, batch: Any = None, *, forward: Forward = call) -> Graph:
    """Find out which call of a module or function takes what from which other, in one forward of a model.

    Without a batch the forward is followed symbolically (torch.fx), which dynamic code does not allow. With one,
    `forward(model, batch)` is run, once, in evaluation mode and without gradients: modules are seen by hooks,
    functions (`F.relu`, `x + y`, methods) as they are called, and tensors are known by identity. Layers of
    `torch.nn` and normsmith are single events; modules of others are looked into. Afterwards the model is as it
    was: mode, buffers, hooks, random state.

    Raises:
        SurgeryError: the forward cannot be followed without a batch, or fails on it.

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
        return _by_symbols(model)
    check_runnable(model)
    recorder = _Recorder(model)
    with preserved(model), recorder.listening():
        model.eval()
        recorder.take_inputs(batch)
        try:
            found = forward(model, batch)
        except Exception as error:
            raise SurgeryError(
                f"a forward in evaluation failed on this batch: {type(error).__name__}: {error}"
            ) from error
        return recorder.graph(found)


class _Log:
    """The events so far; each result is known by a key."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: Counter[nn.Module] = Counter()

    def add(
        self,
        kind: Literal["input", "parameter", "module", "function"],
        path: str,
        name: str,
        sources: Iterable[Event] = (),
        module: nn.Module | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Event:
        event = Event(len(self.events), kind, path, name, tuple(sources), module, shape)
        self.events.append(event)
        return event


class _Recorder(TorchFunctionMode):
    """Listens to one forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._log = _Log()
        self._known: dict[
            int, tuple[Event, Tensor]
        ] = {}  # the tensor is kept, so that its id is not used again
        self._own = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._paths = {module: path for path, module in model.named_modules()}
        self._open: list[str] = []
        self._inside_leaf = 0
        self._inside_function = False
        self._pending: list[tuple[tuple[Event, ...], dict[int, int]]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        fastpath = torch.backends.mha.get_fastpath_enabled()
        with ExitStack() as stack:
            for module in _walked(self._model):
                before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                after = module.register_forward_hook(
                    self._leave, prepend=True
                )  # what hooks add is seen apart
                stack.callback(before.remove)
                stack.callback(after.remove)
            torch.backends.mha.set_fastpath_enabled(False)  # it calls none of a transformer layer's modules
            stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
            if "torch._dynamo" in sys.modules:  # nothing is compiled otherwise, and its import takes seconds
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.no_grad())
            stack.enter_context(_Kernels(self))
            stack.enter_context(self)
            yield

    def take_inputs(self, batch: Any) -> None:
        named = (
            batch.items()
            if isinstance(batch, Mapping)
            else ((f"input {i}", t) for i, t in enumerate(flat(batch)))
        )
        for name, value in named:
            for tensor in flat(value):
                self._remember(tensor, self._log.add("input", "", name, shape=tuple(tensor.shape)))

    def graph(self, found: Any) -> Graph:
        outputs = dict.fromkeys(event for tensor in flat(found) if (event := self._event(tensor)) is not None)
        return Graph(tuple(self._log.events), tuple(outputs), dict(self._log.calls), "forward")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._inside_leaf or self._inside_function:
            return func(*args, **kwargs)
        self._inside_function = True
        try:
            return self._function(func, args, kwargs)
        finally:
            self._inside_function = False

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        versions = _versions((args, kwargs))
        result = _apart(func(*args, **kwargs), versions)
        tensors = list(flat(result)) or _written((args, kwargs), versions)
        name = plain_name(getattr(func, "__name__", str(func)).partition(".")[0])
        if tensors and not (name == "get" and all(id(t) in self._own for t in tensors)):
            path = self._open[-1] if self._open else ""
            sources = self._sources((args, kwargs))
            event = self._log.add("function", path, name, sources, shape=tuple(tensors[0].shape))
            for tensor in tensors:
                self._remember(tensor, event)
        return result

    def is_computed(self, arguments: Any) -> bool:
        """Whether some tensor is the input's or the result of a call."""
        return any(id(t) in self._known and id(t) not in self._own for t in flat(arguments))

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._open.append(self._paths[module])
        if _is_opaque(module):
            outer = not self._inside_leaf
            self._pending.append(
                (self._sources((args, kwargs)), _versions((args, kwargs))) if outer else ((), {})
            )
            self._inside_leaf += 1
        if self._inside_leaf <= 1:
            self._log.calls[module] += 1

    def _leave(self, module: nn.Module, _: Any, found: Any) -> Any:
        path = self._open.pop()
        if not _is_opaque(module):
            return found
        sources, versions = self._pending.pop()
        found = _apart(found, versions)  # still inside: this is no call of the model's
        self._inside_leaf -= 1
        if self._inside_leaf:
            return found
        tensors = list(flat(found))
        shape = tuple(tensors[0].shape) if tensors else None
        event = self._log.add("module", path, type(module).__name__, sources, module, shape)
        for tensor in tensors:
            self._remember(tensor, event)
        return found

    def _sources(self, arguments: Any) -> tuple[Event, ...]:
        return tuple(event for tensor in flat(arguments) if (event := self._event(tensor)) is not None)

    def _event(self, tensor: Tensor) -> Event | None:
        if id(tensor) in self._known:
            return self._known[id(tensor)][0]
        if id(tensor) in self._own:
            event = self._log.add("parameter", self._own[id(tensor)], "parameter", shape=tuple(tensor.shape))
            self._remember(tensor, event)
            return event
        return None

    def _remember(self, tensor: Tensor, event: Event) -> None:
        self._known[id(tensor)] = (event, tensor)


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hears the kernels that no function of torch's Python calls, as scripted functions do."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._recorder.is_computed(
            (args, kwargs)
        ):  # wrappers keep their copies of weights and buffers equal
            with torch._C.DisableTorchFunction():  # or the recorder would hear it after all
                return func(*args, **(kwargs or {}))
        return self._recorder.__torch_function__(func, types, args, kwargs)


def _versions(arguments: Any) -> dict[int, int]:
    return {id(tensor): tensor._version for tensor in flat(arguments)}


def _written(arguments: Any, versions: dict[int, int]) -> list[Tensor]:
    """What a call that returns nothing, such as `x[0] = 1`, has put values into."""
    return [tensor for tensor in flat(arguments) if tensor._version != versions[id(tensor)]]


def _apart(found: Any, versions: dict[int, int]) -> Any:
    """A result that is an argument, unchanged, as a tensor of its own: who takes which must be seen."""
    if isinstance(found, Tensor) and versions.get(id(found)) == found._version:
        return found.detach()
    return found


class _Symbols(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if _is_fixed(m):
            raise SurgeryError(
                f"{type(m).__name__} {module_qualified_name} decides by its input what it calls"
            )
        return _is_opaque(m)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.calls[m] += 1
        if not _is_opaque(m):
            return super().call_module(m, forward, args, kwargs)
        inner = super().call_module  # a leaf becomes a node and is not called; what is attached to it is
        return called(m, lambda *a, **k: inner(m, forward, a, k), args, kwargs)

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[nn.Module] = Counter()


def _by_symbols(model: nn.Module) -> Graph:
    tracer, log = _Symbols(), _Log()
    with preserved(model), uncollected():
        try:
            traced = tracer.trace(model)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
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
    """Nodes among the arguments, as often as they are there."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def _scope(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _walked(model: nn.Module) -> Iterator[nn.Module]:
    """All modules but those inside scripted ones, which take no hooks."""
    scripted = {
        inner
        for module in model.modules()
        if isinstance(module, torch.jit.ScriptModule)
        for inner in module.modules()
        if inner is not module
    }
    return (module for module in model.modules() if module not in scripted)


def _is_opaque(module: nn.Module) -> bool:
    return (
        is_leaf(module)
        or type(module).__module__.startswith(_OURS)
        or isinstance(module, torch.jit.ScriptModule)
    )


def _is_fixed(module: nn.Module) -> bool:
    """A composite of torch's own, such as a transformer layer, that symbols do not get through."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return (
        type(module).__module__.startswith("torch.nn.")
        and not isinstance(module, containers)
        and not _is_opaque(module)
    )
