"""Batch norms inside a recurrence, as an edit: on its inputs, shared by its steps, or one for each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normsmith.errors import StudyError
from normsmith.layers import BatchNorm1d
from normsmith.studies.names import named
from normsmith.tasks import Task, build, example, forward_of
from normsmith.tasks.digits import Elman

PLACES = ("input", "shared", "per step")


class OverSteps(nn.Module):
    """A batch norm of sequences (N, T, channels), whose statistics are over samples and steps together."""

    def __init__(self, channels: int, gamma: float) -> None:
        super().__init__()
        self.norm = _norm(channels, gamma)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.transpose(1, 2))
        return y.transpose(1, 2)


class PerStep(nn.Module):
    """A batch norm of (N, channels) with statistics of its own for each step of a recurrence, and one γ and β.

    It counts its calls, from each call of `begin` on; calls beyond the last step are normalised as that one.

    Source: Cooijmans et al. 2017.
    """

    def __init__(self, channels: int, steps: int, gamma: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(BatchNorm1d(channels, affine=False) for _ in range(steps))
        self.weight = nn.Parameter(torch.full((channels,), gamma))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.step = 0

    def begin(self, *_: Any) -> None:
        """A new sequence begins: a forward pre-hook of the network around it."""
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norms[min(self.step, len(self.norms) - 1)]
        self.step += 1
        y: Tensor = self.weight * norm(x) + self.bias
        return y


def check_recurrent(task: Task) -> None:
    """Refuse a task whose network is no `Elman`: inside torch's own recurrent layers no norm can be put.

    Raises StudyError: so it is.
    """
    model = build(task, 0)
    if not isinstance(model, Elman):
        raise StudyError(
            "it changes the steps of a recurrence, which is possible in the network of digits-rnn "
            f"(normsmith.tasks.digits.Elman) alone, and this is {type(model).__name__}"
        )


@named("norm-in-recurrence")
def norm_in_recurrence(model: nn.Module, task: Task, place: str, gamma: float) -> nn.Module:
    """Put a batch norm into an `Elman`, with γ starting at `gamma`.

    `place` is "input" (what comes from outside, over all steps together), "shared" (before the activation, one norm for
    all steps, each of which moves its running statistics), or "per step" (before the activation, statistics of its
    own for each step).

    Raises StudyError: the network is no `Elman`, or there is no such place.
    """
    if not isinstance(model, Elman):
        raise StudyError(f"expected a normsmith.tasks.digits.Elman, got {type(model).__name__}")
    if place not in PLACES:
        raise StudyError(f"expected one of {', '.join(PLACES)} as place, got {place!r}")
    units = model.state.out_features
    if place == "input":
        model.input = nn.Sequential(model.input, _made_like(model, OverSteps(units, gamma)))
        return model
    if place == "shared":
        model.activation = nn.Sequential(_made_like(model, _norm(units, gamma)), model.activation)
        return model
    norm = PerStep(units, _steps(model, task), gamma)
    _made_like(model, norm)
    model.activation = nn.Sequential(norm, model.activation)
    model.register_forward_pre_hook(norm.begin)
    return model


def _made_like(model: Elman, norm: nn.Module) -> nn.Module:
    """The norm, with the device and the dtype of the model that it is for."""
    weight = model.state.weight
    return norm.to(device=weight.device, dtype=weight.dtype)


def _norm(channels: int, gamma: float) -> BatchNorm1d:
    norm = BatchNorm1d(channels)
    nn.init.constant_(norm.weight, gamma)
    return norm


def _steps(model: Elman, task: Task) -> int:
    """How often a forward calls the activation."""
    calls: list[None] = []
    handle = model.activation.register_forward_hook(lambda *_: calls.append(None))
    try:
        with torch.no_grad():
            forward_of(task)(model, example(task))
    finally:
        handle.remove()
    return len(calls)
