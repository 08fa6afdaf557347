"""Smoothness: how the loss and its gradient change on the way that a step of gradient descent takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from normsmith.errors import InputError
from normsmith.measure.iterate import Iterate, apart, as_iterate, size
from normsmith.tasks.task import Task

MULTIPLES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""The steps that are tried, in multiples of the learning rate: from half of it to four times as much."""


@dataclass(frozen=True)
class Smoothness:
    """The loss L and its gradient g at an iterate θ, and at θ − ηg for several η.

    - `steps`: the η, in the order in which they were given.
    - `loss`: L(θ).
    - `gradient_norm`: ‖g(θ)‖.
    - `losses`: L(θ − ηg), for each η.
    - `gradient_changes`: ‖g(θ − ηg) − g(θ)‖, for each η.

    Values that are not finite, as those of a loss that overflowed, are infinite.
    """

    steps: tuple[float, ...]
    loss: float
    gradient_norm: float
    losses: tuple[float, ...]
    gradient_changes: tuple[float, ...]

    @property
    def loss_range(self) -> float:
        """How much the loss varies between the steps: the largest less the smallest."""
        lowest, highest = min(self.losses), max(self.losses)
        return math.inf if math.isinf(highest) else highest - lowest

    @property
    def gradient_predictiveness(self) -> float:
        """The largest change of the gradient; the smaller, the longer the gradient stays right."""
        return max(self.gradient_changes)

    @property
    def betas(self) -> tuple[float, ...]:
        """The change of the gradient divided by the distance η‖g‖, for each η; 0 where the gradient is zero."""
        steps = zip(self.steps, self.gradient_changes, strict=True)
        return tuple(change / (step * self.gradient_norm) if change else 0.0 for step, change in steps)

    @property
    def beta(self) -> float:
        """The effective β-smoothness: the largest of `betas`, a lower bound of the gradient's Lipschitz constant."""
        return max(self.betas)


def smoothness(
    subject: Iterate | Task, rate: float, *, multiples: Sequence[float] = MULTIPLES, seed: int = 0
) -> Smoothness:
    """How smooth the loss is along the negative gradient at one iterate: loss range, gradient predictiveness, β.

        L(θ − ηg),   ‖g(θ − ηg) − g(θ)‖,   β = max over η of ‖g(θ − ηg) − g(θ)‖ / η‖g(θ)‖

    for η from half the learning rate to four times as much. Weights and buffers are put back before each η and at the
    end, and each has the same random numbers: dropout and the like, drawn anew, would pass for roughness.

    It says something about training where the network learns, and is compared between networks at the same place:
    the same step of training, each at its own good learning rate.

    Args:
        subject: an `Iterate` (a model, a batch, the loss), or a task, of which a new network is taken.
        rate: the learning rate that the network is trained with.
        multiples: the steps that are tried, as multiples of the rate.
        seed: of the random numbers.

    Returns a `Smoothness`. Losses and gradients are in the units of the loss, β in those of the loss per squared
    unit of the weights.

    Raises InputError where the rate or a multiple is not positive, or the loss is no scalar.

    Source: Santurkar, Tsipras, Ilyas and Mądry, "How Does Batch Normalization Help Optimization?", NeurIPS 2018,
    figure 4.

    >>> import torch
    >>> from torch import nn
    >>> half_square = lambda model, x: 3 * model(x).square().sum() / 2  # L = 3w² / 2, whose gradient is 3w
    >>> measured = smoothness(Iterate(nn.Linear(1, 1, bias=False), torch.ones(1, 1), half_square), rate=0.1)
    >>> round(measured.beta, 3)
    3.0
    """
    steps = tuple(rate * multiple for multiple in multiples)
    if not steps or not all(0 < step < math.inf for step in steps):
        raise InputError(
            f"smoothness: expected a positive rate and multiples, got {rate!r} and {multiples!r}"
        )
    iterate = as_iterate(subject)
    loss, gradient = iterate.gradient(seed=seed)
    start = {path: parameter.detach().clone() for path, parameter in iterate.parameters.items()}
    losses, changes = [], []
    for step in steps:
        there = {path: value - step * gradient[path] for path, value in start.items()}
        loss_there, gradient_there = iterate.gradient(there, seed=seed)
        losses.append(loss_there)
        changes.append(apart(gradient_there, gradient))
    return Smoothness(steps, loss, size(gradient), _finite(losses), _finite(changes))


def _finite(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(value if math.isfinite(value) else math.inf for value in values)
