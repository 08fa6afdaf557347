"""What happens while a model is trained or validated: who was called in which mode, and what moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normsmith._text import error_text
from normsmith._torch import backward_number, buffers_of, has_function_transforms, is_mapped
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.forward import flat
from normsmith.anatomy.kinds import is_norm
from normsmith.checks.finding import UnavailableError
from normsmith.checks.norms import norms_of

Event = Literal["forward", "backward", "step"]


@dataclass(frozen=True)
class ForwardCall:
    """One forward of the model, or of a part of it that was called by itself.

    - `training`: whether the model was in training mode, and not only said so while all of its layers were not.
    - `records`: whether gradients were recorded.
    - `inputs`: sums over the tensors that came, by which the same input is known again.
    - `reached`: whether a gradient came back to its output.
    """

    training: bool
    records: bool
    inputs: tuple[float, ...]
    reached: bool


@dataclass(frozen=True, eq=False)
class NormCall:
    """One call of a norm.

    - `training`: whether the norm was in training mode; `parent_training` says it of the module that holds it.
    - `records`: whether gradients were recorded.
    - `momentum`: the norm's, at that moment.
    - `moved`: whether the call changed the running statistics.
    - `forward`: the number of the forward that it belongs to; None where checkpointing computed it again.
    - `values`: how many values of a channel came; `mean`, `var` are theirs, (channels,) in float64 on the CPU.
    - `mapped`: whether `torch.func.vmap` maps the input, though not the norm itself; values are then not counted.
    """

    path: str
    training: bool
    parent_training: bool
    records: bool
    momentum: float | None
    moved: bool
    forward: int | None
    values: int
    mean: Tensor = field(repr=False)
    var: Tensor = field(repr=False)
    mapped: bool = False


@dataclass(frozen=True)
class Record:
    """What happened in a training step, or in a validation.

    - `events`: "forward" of the model or a part of it, "backward" and "step" of the optimizer, in their order.
    - `forwards`: one for each "forward".
    - `calls`: of the norms, in order.
    - `moved`: the names of the parameters that changed.
    """

    events: tuple[Event, ...]
    forwards: tuple[ForwardCall, ...]
    calls: tuple[NormCall, ...]
    moved: frozenset[str]

    @property
    def modes(self) -> tuple[bool, ...]:
        """Whether the model was in training mode, for each forward."""
        return tuple(forward.training for forward in self.forwards)

    def calls_of(self, path: str) -> tuple[NormCall, ...]:
        """The calls of one norm."""
        return tuple(call for call in self.calls if call.path == path)

    def before(self, forward: int, event: Event) -> int:
        """How many events of a kind came before a forward, given by its number.

        >>> Record(("forward", "forward", "backward", "step", "forward"), (), (), frozenset()).before(2, "backward")
        1
        """
        places = [at for at, other in enumerate(self.events) if other == "forward"]
        return self.events[: places[forward]].count(event)


class Watcher:
    """Hooks on a model and its optimizer that write down what happens."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        self._model, self._optimizer = model, optimizer
        self._by_path = dict(model.named_modules())
        self._begin()

    def _begin(self) -> None:
        self._events: list[Event] = []
        self._calls: list[NormCall] = []
        self._forwards: list[tuple[bool, bool, tuple[float, ...]]] = []
        self._reached: set[int] = set()
        self._depth = 0

    def record(self, what: str, work: Callable[[], Any]) -> Record:
        """What happens while `work` is done.

        Raises:
            UnavailableError: the work, which is called `what`, raised.
        """
        self._begin()
        before = {name: parameter.detach().clone() for name, parameter in self._model.named_parameters()}
        try:
            work()
        except UnavailableError:
            raise
        except Exception as error:
            raise UnavailableError(f"the {what} raised {error_text(error)}") from error
        moved = frozenset(
            name
            for name, parameter in self._model.named_parameters()
            if name in before and not torch.equal(parameter, before[name])
        )
        forwards = tuple(
            ForwardCall(*told, number in self._reached) for number, told in enumerate(self._forwards)
        )
        return Record(tuple(self._events), forwards, tuple(self._calls), moved)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A block with the hooks."""
        handles: list[Any] = []
        if self._optimizer is not None:
            handles.append(self._optimizer.register_step_post_hook(lambda *_: self._events.append("step")))
        for module in self._model.modules():
            if module is self._model or any(is_batch_norm(within) for within in module.modules()):
                handles += [
                    module.register_forward_pre_hook(self._enters, with_kwargs=True),
                    module.register_forward_hook(self._leaves, always_call=True),
                ]
        handles += [
            parameter.register_post_accumulate_grad_hook(self._went_back)  # type: ignore[no-untyped-call]
            for parameter in self._model.parameters()
            if parameter.requires_grad
        ]
        for norm in norms_of(self._model):
            handles += self._watched(norm.module, norm.path)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enters(self, _: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth == 1 and not _is_recomputing():
            self._events.append("forward")
            inputs = tuple(_sum(tensor) for tensor in flat((arguments, options)))
            self._forwards.append((_trains(self._model), torch.is_grad_enabled(), inputs))

    def _leaves(self, _: nn.Module, __: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth or _is_recomputing():
            return
        number, reached = len(self._forwards) - 1, self._reached
        for tensor in flat(output):
            if tensor.requires_grad and not has_function_transforms():
                tensor.register_hook(lambda _: reached.add(number))  # type: ignore[no-untyped-call]

    def _went_back(self, _: Tensor) -> None:
        if self._events[-1:] != ["backward"]:
            self._events.append("backward")

    def _watched(self, module: nn.Module, path: str) -> list[Any]:
        """The hooks on a norm."""
        parent = self._by_path[path.rpartition(".")[0]] if path else module
        held: list[list[Tensor]] = []

        def enters(*_: Any) -> None:
            held.append([tensor.clone() for tensor in _statistics(module)])

        def leaves(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            before = held.pop()
            now = list(_statistics(module))
            moved = any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))
            self._calls.append(
                NormCall(
                    path,
                    module.training,
                    parent.training,
                    torch.is_grad_enabled(),
                    getattr(module, "momentum", None),
                    moved,
                    None if _is_recomputing() else len(self._forwards) - 1,
                    *_moments(arguments),
                    maps_samples(module, arguments),
                )
            )

        return [module.register_forward_pre_hook(enters), module.register_forward_hook(leaves)]


def _trains(model: nn.Module) -> bool:
    """Whether a model is in training mode, and a layer in it too that is no norm, which may be frozen by itself."""
    layers = [module for module in model.modules() if not is_norm(module) and not any(module.children())]
    return model.training and (not layers or any(layer.training for layer in layers))


def maps_samples(norm: nn.Module, arguments: tuple[Any, ...]) -> bool:
    """Whether a norm's input is mapped by vmap, though the norm is not itself one of many, as in a mapped ensemble."""
    own = (*norm.parameters(), *norm.buffers())
    return any(map(is_mapped, flat(arguments))) and not any(map(is_mapped, own))


def _is_recomputing() -> bool:
    """Whether a backward calls this code, as checkpointing does to compute a forward again."""
    return backward_number() != -1


def _sum(tensor: Tensor) -> float:
    if tensor.is_complex() or has_function_transforms():
        return 0.0
    return float(tensor.detach().double().sum())


def _statistics(module: nn.Module) -> Iterable[Tensor]:
    named = (buffers_of(module).get(name) for name in ("running_mean", "running_var"))
    return [tensor for tensor in named if tensor is not None]


def _moments(arguments: tuple[Any, ...]) -> tuple[int, Tensor, Tensor]:
    """How many values of a channel came, their mean and their variance."""
    first = next(islice(flat(arguments), 1), None)
    if first is None or first.ndim < 2 or has_function_transforms():
        return 0, torch.empty(0), torch.empty(0)
    rows = first.detach().cpu().double().movedim(1, 0).flatten(1)
    return rows.shape[1], rows.mean(1), rows.var(1, correction=0)
