"""Whether a network has learned anything yet, and what another learning rate would bring: tried on copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import number
from normsmith._torch import map_leaves
from normsmith.anatomy.forward import copied
from normsmith.checks.batches import rows
from normsmith.checks.comparison import Judge, is_worse
from normsmith.checks.finding import UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.training import Trainee, in_training

_TRIED = 16
"""Training steps by which learning rates are compared."""
_LEARNED, _COSTS = 0.1, 0.05
"""Shares of the loss with the targets of other samples."""


@dataclass(frozen=True)
class Losses:
    """Losses of batches in training mode: `own` of each, and `other` with the targets of other samples."""

    own: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def chance(self) -> float:
        """The loss of somebody who knows how targets are distributed, and nothing of the inputs, or a bit more."""
        return sum(self.other) / len(self.other)

    @property
    def show_learning(self) -> bool:
        """Whether outputs fit their own targets better than others, by a tenth of the loss and beyond noise.

        >>> Losses((0.2, 0.3), (0.9, 1.1)).show_learning, Losses((0.7, 0.69), (0.69, 0.7)).show_learning
        (True, False)
        """
        return is_worse(list(zip(self.other, self.own, strict=True)), _LEARNED * abs(self.chance))


@dataclass(frozen=True)
class Tried:
    """What batches come to after some training steps, as they are and with other learning rates; `chance` before."""

    as_is: Losses
    otherwise: Losses
    chance: float

    @property
    def cost(self) -> str | None:
        """What it costs to leave the learning rates as they are, in words; None where it costs nothing that counts.

        >>> now, then = Losses((0.69, 0.7), (0.69, 0.7)), Losses((0.41, 0.39), (1.2, 1.1))
        >>> Tried(now, then, 0.7).cost
        'after 16 steps the loss is 0.695; it would be 0.4'
        """
        if not is_worse(
            list(zip(self.as_is.own, self.otherwise.own, strict=True)), _COSTS * abs(self.chance)
        ):
            return None
        now, then = (sum(losses.own) / len(losses.own) for losses in (self.as_is, self.otherwise))
        return f"after {_TRIED} steps the loss is {number(now)}; it would be {number(then)}"


@dataclass(frozen=True)
class Judged:
    """Batches with their forward and what judges its outputs."""

    batches: Sequence[Any]
    forward: Callable[[nn.Module, Any], Any]
    judge: Judge

    def losses(self, model: nn.Module) -> Losses:
        """The losses of a model in training mode; its buffers may move.

        Statistics in evaluation may be wrong, and have no part in it.

        Raises:
            UnavailableError: there is no loss or no target, or the model raised.
        """
        run, own, other = numbered(self.forward), [], []
        in_training(model)
        with torch.no_grad():
            for batch in self.batches:
                output, target = run(model, copied(batch))
                losses = [self.judge.loss_of(output, of) for of in (target, _of_others(target, rows(batch)))]
                if losses[0] is None or losses[1] is None:
                    raise UnavailableError("give loss=... and batches with targets")
                own.append(losses[0])
                other.append(losses[1])
        return Losses(tuple(own), tuple(other))

    def after_steps(self, trainee: Trainee, factors: Mapping[int, float]) -> Losses:
        """The losses after some steps, with learning rates times these factors, by the number of their group.

        Raises:
            UnavailableError: a step raised, or there is no loss.
        """
        for number_of, group in enumerate(trainee.optimizer.param_groups):
            group["lr"] = group["lr"] * factors.get(number_of, 1.0)
        with torch.enable_grad():
            for step in range(_TRIED):
                trainee.step(step)
        for module, mode in trainee.begin.items():
            module.training = mode
        return self.losses(trainee.model)


def _of_others(target: Any, count: int) -> Any:
    """Targets that were given to other samples: those half a batch away."""

    def moved(leaf: Any) -> Any:
        is_of_batch = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count
        return leaf.roll(count // 2, 0) if is_of_batch else leaf

    return map_leaves(moved, target)
