"""A few training steps and a validation, each on a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normsmith._text import error_text
from normsmith.checks.finding import UnavailableError
from normsmith.checks.watcher import Record, Watcher

T = TypeVar("T")
STEPS = 2
"""Training steps before the validation; one more comes after it."""
_RATE = 1e-3


@dataclass(frozen=True)
class TrainingRun:
    """Training steps, then the user's validation, then one more step; the last two are None without a validation.

    - `own_step`: whether the steps were the user's own; otherwise they are the usual one, in the modes of the begin.
    """

    steps: tuple[Record, ...]
    validation: Record | None
    after: Record | None
    own_step: bool

    @property
    def every_step(self) -> tuple[Record, ...]:
        """The training steps, that after the validation too."""
        return self.steps if self.after is None else (*self.steps, self.after)


def training_run(trainee: Trainee, validate: Callable[[nn.Module], Any] | None) -> TrainingRun:
    """Train a copy of a model for a few steps, and see what happens.

    Raises:
        UnavailableError: a step or the validation raised.
    """
    watcher = Watcher(trainee.model, trainee.optimizer)

    def trained(number: int) -> Record:
        return watcher.record("training step", lambda: trainee.step(number))

    with torch.enable_grad(), watcher.watching():
        steps = tuple(trained(number) for number in range(STEPS))
        if validate is None:
            return TrainingRun(steps, None, None, trainee.own is not None)
        validation = watcher.record("validation", lambda: validate(trainee.model))
        return TrainingRun(steps, validation, trained(STEPS), trainee.own is not None)


@dataclass(frozen=True, eq=False)
class Trainee:
    """A copy of a model, with a copy of its optimizer, that is trained step by step.

    It starts in training mode, as at the begin of an epoch, and where the model is in training mode already, in the
    modes of its parts, in which the usual step is taken; in the user's own step modes are their affair.

    - `own`: `step(model, batches, optimizer)`; `batches` is an iterator that begins anew for each step.
    - `usual`: the loss of a batch, for the usual step: forward, loss, backward, step.
    - `begin`: the modes of all modules at the begin.
    """

    model: nn.Module
    optimizer: Optimizer
    batches: Sequence[Any]
    own: Callable[..., Any] | None
    usual: Callable[[nn.Module, Any], Tensor]
    begin: dict[nn.Module, bool]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: Optimizer | None,
        batches: Sequence[Any],
        step: Callable[..., Any] | None,
        usual: Callable[[nn.Module, Any], Tensor],
    ) -> Trainee:
        """Copy a model and its optimizer; without one it is plain gradient descent.

        Raises:
            UnavailableError: the model cannot be copied, or has nothing to train.
        """
        twin, follower = _copied((model, optimizer))  # together: the copy trains the copy's parameters
        if follower is None:
            trainable = [p for p in twin.parameters() if p.requires_grad]
            if not trainable:
                raise UnavailableError("the model has no parameter that trains")
            follower = torch.optim.SGD(trainable, lr=_RATE)
        return cls(twin, follower, batches, step, usual, in_training(twin))

    def step(self, number: int) -> None:
        """Take a step, whose first batch is the one of this number; batches begin anew after the last.

        Raises:
            UnavailableError: the step raised.
        """
        try:
            self._step(number)
        except Exception as error:
            raise UnavailableError(f"the training step raised {error_text(error)}") from error

    def step_in_evaluation(self) -> Record:
        """What happens in a step of a model that comes in evaluation mode.

        Raises:
            UnavailableError: the step raised.
        """
        self.model.eval()
        watcher = Watcher(self.model, self.optimizer)
        with torch.enable_grad(), watcher.watching():
            return watcher.record("training step", lambda: self.step(0))

    def _step(self, number: int) -> None:
        turned = [*self.batches[number % len(self.batches) :], *self.batches[: number % len(self.batches)]]
        if self.own is not None:
            self.own(self.model, iter(turned), self.optimizer)
            return
        for module, mode in self.begin.items():
            module.training = mode
        _usual_step(self.model, turned[0], self.optimizer, self.usual)


def validation_run(model: nn.Module, validate: Callable[[nn.Module], Any]) -> Record:
    """Validate a copy of a model that is in training mode, as it is after a training step, and see what happens.

    Raises:
        UnavailableError: the model cannot be copied, or the validation raised.
    """
    twin = copied_model(model)
    in_training(twin)
    watcher = Watcher(twin)
    with torch.enable_grad(), watcher.watching():
        return watcher.record("validation", lambda: validate(twin))


def copied_model(model: nn.Module) -> nn.Module:
    """A copy of a model that may be changed.

    Raises:
        UnavailableError: the model cannot be copied.
    """
    return _copied(model)


def _copied(value: T) -> T:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise UnavailableError(f"the model cannot be copied: {error_text(error)}") from error


def in_training(model: nn.Module) -> dict[nn.Module, bool]:
    """Put a model into training mode unless it is, with parts that are not; the modes of all modules then."""
    if not model.training:
        model.train()
    return {module: module.training for module in model.modules()}


def _usual_step(
    model: nn.Module, batch: Any, optimizer: Optimizer, loss: Callable[[nn.Module, Any], Tensor]
) -> None:
    optimizer.zero_grad()
    loss(model, batch).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
