"""Follow the data through one real forward of a model, whatever its code is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normsmith._text import error_text
from normsmith._torch import DispatchMode, version_of, without_torch_functions
from normsmith.anatomy.events import EventLog
from normsmith.anatomy.forward import Forward, check_runnable, flat
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.isolation import eager_forwards
from normsmith.anatomy.kinds import is_opaque, plain_name
from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError


def followed_by_forward(model: nn.Module, batch: Any, forward: Forward) -> Graph:
    """The graph of `forward(model, batch)`, run once in evaluation mode and without gradients.

    Raises:
        SurgeryError: the forward fails, or the model has tensors without values.
    """
    check_runnable(model)
    recorder = _Recorder(model)
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


class _Recorder(TorchFunctionMode):
    """Records one forward of a model as events.

    Modules are seen by hooks; functions (`F.relu`, `x + y`, methods) as torch tells this mode of their calls. Tensors
    are known by identity: an event takes the result of another if one of its arguments is that very tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._log = EventLog()
        self._calls: Counter[nn.Module] = Counter()
        # by id, with the tensor itself, so that its id is not used again
        self._known: dict[int, tuple[Event, Tensor]] = {}
        self._own = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._paths = {module: path for path, module in model.named_modules()}
        self._open: list[str] = []
        self._inside_opaque = 0
        self._inside_function = False
        self._pending: list[tuple[tuple[Event, ...], dict[int, int]]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the forward that runs in this block."""
        fastpath = torch.backends.mha.get_fastpath_enabled()
        with ExitStack() as stack:
            for module in _hookable(self._model):
                before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                # before the hooks that are there: what they do to the output is recorded apart
                after = module.register_forward_hook(self._leave, prepend=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            torch.backends.mha.set_fastpath_enabled(False)  # it calls none of a transformer layer's modules
            stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
            stack.enter_context(eager_forwards())
            stack.enter_context(torch.no_grad())
            stack.enter_context(_Kernels(self))
            stack.enter_context(self)
            yield

    def take_inputs(self, batch: Any) -> None:
        """Make an event of every tensor in the batch."""
        is_named = isinstance(batch, Mapping)
        inputs = batch.items() if is_named else ((f"input {i}", t) for i, t in enumerate(flat(batch)))
        for name, value in inputs:
            for tensor in flat(value):
                self._remember(tensor, self._log.add("input", "", name, shape=tuple(tensor.shape)))

    def graph(self, output: Any) -> Graph:
        """What was recorded, given the output of the forward."""
        outputs = dict.fromkeys(
            event for tensor in flat(output) if (event := self._event(tensor)) is not None
        )
        return Graph(tuple(self._log.events), tuple(outputs), dict(self._calls), "forward")

    def is_computed(self, arguments: Any) -> bool:
        """Whether some tensor among the arguments is an input or the result of a call."""
        return any(id(t) in self._known and id(t) not in self._own for t in flat(arguments))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._inside_opaque or self._inside_function:
            return func(*args, **kwargs)
        self._inside_function = True
        try:
            return self._function(func, args, kwargs)
        finally:
            self._inside_function = False

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function, and make an event of the call if it computes something."""
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

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A pre-hook: count the call, and note what an opaque module takes."""
        self._open.append(self._paths[module])
        if is_opaque(module):
            outer = not self._inside_opaque
            self._pending.append(
                (self._sources((args, kwargs)), _versions((args, kwargs))) if outer else ((), {})
            )
            self._inside_opaque += 1
        if self._inside_opaque <= 1:
            self._calls[module] += 1

    def _leave(self, module: nn.Module, _: Any, output: Any) -> Any:
        """A forward hook: make an event of the call of an opaque module that is in no other."""
        path = self._open.pop()
        if not is_opaque(module):
            return output
        sources, versions = self._pending.pop()
        output = _apart(output, versions)  # still inside: this is no call of the model's
        self._inside_opaque -= 1
        if self._inside_opaque:
            return output
        tensors = list(flat(output))
        shape = tuple(tensors[0].shape) if tensors else None
        event = self._log.add("module", path, type(module).__name__, sources, module, shape)
        for tensor in tensors:
            self._remember(tensor, event)
        return output

    def _sources(self, arguments: Any) -> tuple[Event, ...]:
        """The events whose results are among the arguments, in their order."""
        return tuple(event for tensor in flat(arguments) if (event := self._event(tensor)) is not None)

    def _event(self, tensor: Tensor) -> Event | None:
        """The event whose result a tensor is; a tensor of the model becomes one the first time that it is taken."""
        if id(tensor) in self._known:
            return self._known[id(tensor)][0]
        if id(tensor) in self._own:
            event = self._log.add("parameter", self._own[id(tensor)], "parameter", shape=tuple(tensor.shape))
            self._remember(tensor, event)
            return event
        return None

    def _remember(self, tensor: Tensor, event: Event) -> None:
        self._known[id(tensor)] = (event, tensor)


class _Kernels(DispatchMode):  # type: ignore[no-untyped-call]
    """Records kernels that are called without a function of torch's Python, as scripted functions call them."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._recorder.is_computed((args, kwargs)):
            # wrappers that keep their copies of weights and buffers equal call such kernels
            with without_torch_functions():  # or the recorder would record it after all
                return func(*args, **(kwargs or {}))
        return self._recorder.__torch_function__(func, types, args, kwargs)


def _versions(arguments: Any) -> dict[int, int]:
    """For each tensor the number of times that it was written to."""
    return {id(tensor): version_of(tensor) for tensor in flat(arguments)}


def _written(arguments: Any, versions: dict[int, int]) -> list[Tensor]:
    """The tensors that a call that returns nothing, such as `x[0] = 1`, has written to."""
    return [tensor for tensor in flat(arguments) if version_of(tensor) != versions[id(tensor)]]


def _apart(result: Any, versions: dict[int, int]) -> Any:
    """A result, as a tensor of its own where it is an unchanged argument.

    Else those who take the result could not be told from those who take the argument.
    """
    if isinstance(result, Tensor) and versions.get(id(result)) == version_of(result):
        return result.detach()
    return result


def _hookable(model: nn.Module) -> Iterator[nn.Module]:
    """All modules of a model but those inside scripted ones, which take no hooks."""
    scripted = {
        inner
        for module in model.modules()
        if isinstance(module, torch.jit.ScriptModule)
        for inner in module.modules()
        if inner is not module
    }
    return (module for module in model.modules() if module not in scripted)
