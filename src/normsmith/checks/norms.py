"""The batch norms of a model, as rules ask about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import buffers_of
from normsmith.anatomy.batch_norms import is_batch_norm, tensors_of
from normsmith.anatomy.locations import Locations
from normsmith.layers.statistics import StatisticsBase


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm of a model, whoever wrote its class.

    - `path`, `also`: the first of its paths, and the others where it is shared.
    - `in_training`: whether the whole model is in training mode.
    - `others_train`: whether a parameter of the model has `requires_grad`; an averaged copy often has none.
    """

    module: nn.Module
    path: str
    also: tuple[str, ...]
    in_training: bool
    others_train: bool

    @cached_property
    def tensors(self) -> dict[str, Tensor | None]:
        """Its parameters and buffers by name; those that have no values yet are left out."""
        held = tensors_of(self.module)
        return {name: t for name, t in held.items() if t is None or not (is_lazy(t) or t.is_meta)}

    @property
    def momentum(self) -> float | None:
        """By how much a batch moves the running statistics; None for their plain average."""
        momentum: Any = getattr(self.module, "momentum", None)
        return None if momentum is None else float(momentum)

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        module: Any = self.module
        return float(module.epsilon if isinstance(module, StatisticsBase) else getattr(module, "eps", 1e-5))

    @property
    def keeps_statistics(self) -> bool:
        """Whether it has running statistics."""
        return buffers_of(self.module).get("running_mean") is not None

    @property
    def updates(self) -> bool:
        """Whether training moves its running statistics, unless somebody has frozen them."""
        tracks = getattr(self.module, "track_running_stats", "Frozen" not in type(self.module).__name__)
        return self.keeps_statistics and bool(tracks)

    @property
    def is_pinned(self) -> bool:
        """Whether its statistics stay in training mode too: by `freeze()`, or by its class."""
        module = self.module
        pinned = isinstance(module, StatisticsBase) and module.pinned is not None
        return pinned or "Frozen" in type(module).__name__

    @property
    def is_frozen(self) -> bool:
        """Whether somebody has frozen its statistics on purpose, as far as the layer tells.

        By `freeze()`, by its class, by evaluation mode within a model that trains, or with its parameters where others
        train.
        A momentum of 0 is not asked here: it may be a mistake.
        """
        module = self.module
        if self.is_pinned or (self.in_training and not module.training):
            return True
        parameters = list(module.parameters())
        return self.others_train and bool(parameters) and not any(p.requires_grad for p in parameters)

    @cached_property
    def is_at_start(self) -> bool:
        """Whether its running statistics are those of a new layer: mean 0 and variance 1 in all channels."""
        mean, var = self.tensors.get("running_mean"), self.tensors.get("running_var")
        return mean is not None and var is not None and bool((mean == 0).all()) and bool((var == 1).all())

    @cached_property
    def updates_counted(self) -> int:
        """How many batches its running statistics have averaged; 0 where it does not count them."""
        counter = self.tensors.get("num_batches_tracked")
        return int(counter) if counter is not None and counter.numel() == 1 else 0

    @property
    def initial_share(self) -> float:
        """Which share of its running statistics is still the initial mean 0 and variance 1, by momentum and counter.

        0 where that cannot be: without a counter, and where a variance is smaller than what is left of the 1.
        """
        held, updates = statistics_tensors(self), self.updates_counted
        if held is None or self.momentum is None or not 0 < self.momentum < 1 or not updates:
            return 0.0
        rest = float((1 - self.momentum) ** updates)
        return 0.0 if float(held[1].min()) < 0.99 * rest else rest

    @cached_property
    def has_trained(self) -> bool:
        """Whether its γ or β have moved: they start as constants, and never come back to them."""
        held = (self.tensors.get("weight"), self.tensors.get("bias"))
        return any(t is not None and t.numel() > 1 and bool((t != t.flatten()[0]).any()) for t in held)


def norms_of(model: nn.Module) -> tuple[Norm, ...]:
    """Every batch norm of a model, in the order of its modules.

    >>> [norm.path for norm in norms_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.LayerNorm(2)))]
    ['1']
    """
    return tuple(_norms(model))


def _norms(model: nn.Module) -> Iterator[Norm]:
    trains = any(parameter.requires_grad for parameter in model.parameters())
    for module, (path, *also) in Locations(model).paths.items():
        if is_batch_norm(module):
            yield Norm(module, path, tuple(also), model.training, trains)


def statistics_tensors(norm: Norm) -> tuple[Tensor, Tensor] | None:
    """Running mean and variance in float64 on the CPU; None where it has none with finite values."""
    mean, var = norm.tensors.get("running_mean"), norm.tensors.get("running_var")
    if mean is None or var is None or not (mean.isfinite().all() and var.isfinite().all()):
        return None
    return mean.detach().cpu().to(torch.float64), var.detach().cpu().to(torch.float64)
