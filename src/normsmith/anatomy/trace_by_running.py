"""Follow the data through one real forward of a model, whatever its code is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normsmith._text import error_text
from normsmith._torch import DispatchMode, version_of, without_torch_functions
from normsmith.anatomy.events import EventLog
from normsmith.anatomy.forward import Forward, check_runnable, copied, flat
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.isolation import eager_forwards
from normsmith.anatomy.kinds import is_in_place, is_opaque, plain_name
from normsmith.anatomy.memory import Memory
from normsmith.anatomy.moves import Move, move_of_function, move_of_module
from normsmith.anatomy.pooling import pooling_of
from normsmith.anatomy.preserve import preserved
from normsmith.anatomy.storage import placed
from normsmith.errors import SurgeryError


def followed_by_forward(model: nn.Module, batch: Any, forward: Forward, *, preserve: bool = True) -> Graph:
    """The graph of `forward(model, batch)`, run once in evaluation mode and without gradients, on a copy of the batch.

    Without `preserve` it is the caller who puts the model's state back, its mode too.

    Raises:
        SurgeryError: the forward fails, or the model has tensors without values.
    """
    check_runnable(model)
    recorder, batch = _Recorder(model), copied(batch)
    with preserved(model) if preserve else nullcontext(), recorder.recording():
        model.eval()
        recorder.take_inputs(batch)
        try:
            output = forward(model, batch)
        except Exception as error:
            raise SurgeryError(
                f"a forward in evaluation failed on this batch: {error_text(error)}"
            ) from error
        return recorder.graph(output)


class _Taken(NamedTuple):
    """What a call takes: its arguments, the versions of their tensors, and the events whose results they are.

    `written`: those of the events that have overwritten an argument, and returned another tensor.
    """

    arguments: Any
    versions: dict[int, int]
    sources: tuple[Event, ...]
    written: tuple[Event, ...]


class _Recorder(TorchFunctionMode):
    """Records one forward of a model as events.

    Modules are seen by hooks; functions (`F.relu`, `x + y`, methods) as torch tells this mode of their calls. Tensors
    are known by identity: an event takes the result of another if one of its arguments is that very tensor. What a
    call returns is a tensor of its own, also where it returns an argument, so that those who take the result are told
    from those who take the argument; what is written in place is seen by tensors' versions and memory.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._log = EventLog()
        self._calls: Counter[nn.Module] = Counter()
        self._memory = Memory(self._log)
        # the tensors by id, so that no id and no memory is used again
        self._known: dict[int, Tensor] = {}
        self._own = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._paths = {module: path for path, module in model.named_modules()}
        self._opaque = {module for module in self._paths if is_opaque(module)}
        self._open: list[str] = []
        self._inside_opaque = 0
        self._inside_function = False
        self._pending: list[_Taken | None] = []

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
        taken = self._taken(output)
        outputs = tuple(dict.fromkeys(taken.sources))
        return Graph(
            tuple(self._log.events),
            outputs,
            dict(self._calls),
            "forward",
            tuple(dict.fromkeys(taken.written)),
        )

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
        result = func(*args, **kwargs)
        written = _written(result, (args, kwargs), versions, declared=kwargs.get("inplace") is True)
        result = self._apart(result, versions)
        tensors = list(flat(result))
        name = plain_name(getattr(func, "__name__", str(func)).partition(".")[0])
        if (tensors or written) and not (name == "get" and all(id(t) in self._own for t in tensors)):
            path = self._open[-1] if self._open else ""
            taken, is_known = self._taken((args, kwargs)), bool(args) and id(args[0]) in self._memory
            move = move_of_function(func, name, args, kwargs, result) if is_known else None
            self._note("function", path, name, taken, written, tensors, move=move)
        return result

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A pre-hook: count the call, and note what an opaque module takes."""
        if module in self._opaque:
            self._pending.append(None if self._inside_opaque else self._taken((args, kwargs)))
            self._inside_opaque += 1
        self._open.append(self._paths[module])
        if self._inside_opaque <= 1:
            self._calls[module] += 1

    def _leave(self, module: nn.Module, _: Any, output: Any) -> Any:
        """A forward hook: make an event of the call of an opaque module that is in no other."""
        path = self._open.pop()
        if module not in self._opaque:
            return output
        taken = self._pending.pop()
        if taken is not None:  # still inside: what follows are no calls of the model's
            written = _written(output, taken.arguments, taken.versions, declared=is_in_place(module))
            output = self._apart(output, taken.versions)
            move, tensors = move_of_module(module, output), list(flat(output))
            self._note("module", path, type(module).__name__, taken, written, tensors, module, move)
        self._inside_opaque -= 1
        return output

    def _note(
        self,
        kind: Literal["module", "function"],
        path: str,
        name: str,
        taken: _Taken,
        written: list[Tensor],
        tensors: list[Tensor],
        module: nn.Module | None = None,
        move: Move | None = None,
    ) -> None:
        """Make an event of a call that took, wrote and returned some tensors."""
        places = [placed(tensor) for tensor in tensors]
        keys = [id(tensor) for tensor in written]
        of_shape = next(iter(tensors or written), None)
        event = self._log.add(
            kind,
            path,
            name,
            taken.sources,
            module,
            None if of_shape is None else tuple(of_shape.shape),
            writes=self._memory.overwritten(keys),
            reads_written=taken.written,
            shares=any(self._memory.has(block) for block, _ in places),
            pooling=pooling_of(name, *taken.arguments) if module is None else None,
            move=move,
        )
        self._memory.write(keys, event)
        for tensor, (block, part) in zip(tensors, places, strict=True):
            self._known[id(tensor)] = tensor
            self._memory.hold(id(tensor), event, block, part)

    def _taken(self, arguments: Any) -> _Taken:
        """The events whose results are among the arguments, in their order."""
        sources, written = list[Event](), list[Event]()
        path = self._open[-1] if self._open else ""
        for tensor in flat(arguments):
            if id(tensor) not in self._memory and id(tensor) in self._own:  # the first time that it is taken
                name = self._own[id(tensor)]
                self._remember(
                    tensor, self._log.add("parameter", name, "parameter", shape=tuple(tensor.shape))
                )
            if id(tensor) in self._memory:
                source, by_writing = self._memory.read(id(tensor), path)
                sources.append(source)
                written.extend(by_writing)
        return _Taken(arguments, _versions(arguments), tuple(sources), tuple(written))

    def _remember(self, tensor: Tensor, event: Event) -> None:
        self._known[id(tensor)] = tensor
        self._memory.hold(id(tensor), event, *placed(tensor))

    def _apart(self, result: Any, versions: dict[int, int]) -> Any:
        """A result, as a tensor of its own where it is an argument.

        Else those who take the result could not be told from those who take the argument.
        """
        is_argument = isinstance(result, Tensor) and id(result) in versions
        if is_argument and (id(result) not in self._own or versions[id(result)] == version_of(result)):
            return result.detach()
        return result


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


def _written(result: Any, arguments: Any, versions: dict[int, int], *, declared: bool) -> list[Tensor]:
    """The arguments that a call has written to.

    By their versions, which tensors that share memory share: what is returned tells which of them it was. `declared`:
    the call says that it writes to its first argument, though perhaps not this time, as dropout in evaluation.
    """
    tensors = list(flat(arguments))
    changed = [tensor for tensor in tensors if version_of(tensor) != versions[id(tensor)]]
    if changed and isinstance(result, Tensor):
        return [tensor for tensor in changed if tensor is result] or changed
    return changed[:1] if result is None else changed or tensors[: int(declared)]


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
