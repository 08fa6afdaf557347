"""A few training steps on a copy, and what happened in them: who was called in which mode, and what moved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normsmith._text import error_text
from normsmith._torch import buffers_of
from normsmith.anatomy.forward import flat
from normsmith.checks.finding import UnavailableError
from normsmith.checks.norms import norms_of

STEPS = 2
"""Training steps before the validation; one more comes after it."""
_RATE = 1e-3


@dataclass(frozen=True)
class NormCall:
    """One call of a norm.

    - `training`: whether the norm was in training mode; `root_training` says it of the whole model.
    - `values`: how many values of a channel came.
    - `moved`: whether the call changed the running statistics.
    - `in_forward`: False for a call outside a forward of the model, as when checkpointing computes it again.
    """

    path: str
    training: bool
    root_training: bool
    values: int
    moved: bool
    in_forward: bool


@dataclass(frozen=True)
class Record:
    """What happened in a training step, or in a validation.

    - `events`: "forward" of the model, "backward" and "step" of the optimizer, in their order.
    - `calls`: of the norms, in order.
    - `modes`: whether the model was in training mode, for each forward.
    - `moved`: the names of the parameters that changed.
    """

    events: tuple[Literal["forward", "backward", "step"], ...]
    calls: tuple[NormCall, ...]
    modes: tuple[bool, ...]
    moved: frozenset[str]

    @property
    def forwards_before_backward(self) -> int:
        """The most forwards in a row that no backward came between.

        >>> Record(("forward", "forward", "backward", "step", "forward"), (), (), frozenset()).forwards_before_backward
        2
        """
        runs = "".join("f" if event == "forward" else " " for event in self.events)
        return max(map(len, runs.split()), default=0)

    def calls_of(self, path: str) -> tuple[NormCall, ...]:
        """The calls of one norm."""
        return tuple(call for call in self.calls if call.path == path)


@dataclass(frozen=True)
class TrainingRun:
    """Training steps, then the user's validation, then one more step; the last two are None without a validation.

    - `own_step`: whether the steps were the user's own; otherwise they are the usual one, in training mode.
    """

    steps: tuple[Record, ...]
    validation: Record | None
    after: Record | None
    own_step: bool


def training_run(
    model: nn.Module,
    optimizer: Optimizer | None,
    batches: Sequence[Any],
    step: Callable[..., Any] | None,
    usual: Callable[[nn.Module, Any], Tensor],
    validate: Callable[[nn.Module], Any] | None,
) -> TrainingRun:
    """Train a copy of a model for a few steps, and see what happens.

    The copy starts in training mode, as at the begin of an epoch; from then on modes are the user's own affair.

    Args:
        step: `step(model, batches, optimizer)`; `batches` is an iterator that begins anew for each step.
        usual: the loss of a batch, for the usual step: forward, loss, backward, step.

    Raises:
        UnavailableError: the model cannot be copied, or a step or the validation raised.
    """
    try:
        twin, follower = copy.deepcopy((model, optimizer))  # together: the copy trains the copy's parameters
    except Exception as error:
        raise UnavailableError(f"the model cannot be copied: {error_text(error)}") from error
    if follower is None:
        trainable = [p for p in twin.parameters() if p.requires_grad]
        if not trainable:
            raise UnavailableError("the model has no parameter that trains")
        follower = torch.optim.SGD(trainable, lr=_RATE)
    twin.train()
    watcher = _Watcher(twin, follower)

    def trained(number: int) -> Record:
        turned = [*batches[number % len(batches) :], *batches[: number % len(batches)]]
        if step is not None:
            return watcher.record("training step", lambda: step(twin, iter(turned), follower))
        return watcher.record("training step", lambda: _usual_step(twin, turned[0], follower, usual))

    with torch.enable_grad(), watcher.watching():
        steps = tuple(trained(number) for number in range(STEPS))
        if validate is None:
            return TrainingRun(steps, None, None, step is not None)
        validation = watcher.record("validation", lambda: validate(twin))
        return TrainingRun(steps, validation, trained(STEPS), step is not None)


def _usual_step(
    model: nn.Module, batch: Any, optimizer: Optimizer, loss: Callable[[nn.Module, Any], Tensor]
) -> None:
    model.train()
    optimizer.zero_grad()
    loss(model, batch).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


class _Watcher:
    """Hooks on a model and its optimizer that write down what happens."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._begin()

    def _begin(self) -> None:
        self._events: list[Literal["forward", "backward", "step"]] = []
        self._calls: list[NormCall] = []
        self._modes: list[bool] = []
        self._forwards = 0

    def record(self, what: str, work: Callable[[], Any]) -> Record:
        """What happens while `work` is done."""
        self._begin()
        before = {name: parameter.detach().clone() for name, parameter in self._model.named_parameters()}
        try:
            work()
        except Exception as error:
            raise UnavailableError(f"the {what} raised {error_text(error)}") from error
        moved = frozenset(
            name
            for name, parameter in self._model.named_parameters()
            if not torch.equal(parameter, before[name])
        )
        return Record(tuple(self._events), tuple(self._calls), tuple(self._modes), moved)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A block with the hooks."""
        handles: list[Any] = [
            self._model.register_forward_pre_hook(self._enters),
            self._model.register_forward_hook(self._leaves, always_call=True),
            self._optimizer.register_step_post_hook(lambda *_: self._events.append("step")),
        ]
        handles += [
            parameter.register_post_accumulate_grad_hook(self._went_back)  # type: ignore[no-untyped-call]
            for parameter in self._model.parameters()
            if parameter.requires_grad
        ]
        for norm in norms_of(self._model):
            handles += _watched(norm.module, norm.path, self)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enters(self, *_: Any) -> None:
        self._forwards += 1
        self._events.append("forward")
        self._modes.append(self._model.training)

    def _leaves(self, *_: Any) -> None:
        self._forwards -= 1

    def _went_back(self, _: Tensor) -> None:
        if self._events[-1:] != ["backward"]:
            self._events.append("backward")

    def called(self, path: str, module: nn.Module, values: int, moved: bool) -> None:
        """Write down the call of a norm."""
        self._calls.append(
            NormCall(path, module.training, self._model.training, values, moved, self._forwards > 0)
        )


def _watched(module: nn.Module, path: str, watcher: _Watcher) -> list[Any]:
    """The hooks on a norm."""
    held: list[list[Tensor]] = []

    def enters(*_: Any) -> None:
        held.append([tensor.clone() for tensor in _statistics(module)])

    def leaves(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        before = held.pop()
        now = list(_statistics(module))
        moved = any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))
        watcher.called(path, module, _values(arguments), moved)

    return [module.register_forward_pre_hook(enters), module.register_forward_hook(leaves)]


def _statistics(module: nn.Module) -> Iterable[Tensor]:
    named = (buffers_of(module).get(name) for name in ("running_mean", "running_var"))
    return [tensor for tensor in named if tensor is not None]


def _values(arguments: tuple[Any, ...]) -> int:
    first = next(islice(flat(arguments), 1), None)
    return 0 if first is None or first.ndim < 2 else first.numel() // max(first.shape[1], 1)
