"""The one line: a model's batch norms converted, the model returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from normsmith.anatomy.select import Only
from normsmith.surgery.operations.convert import convert as plan_of


def convert(
    model: nn.Module,
    to: str = "batch",
    *,
    only: Only = None,
    optimizer: Optimizer | Sequence[Optimizer] = (),
    ema: nn.Module | Sequence[nn.Module] = (),
    copy: bool = False,
    partial: bool = False,
    **options: Any,
) -> nn.Module:
    """Convert the batch norms of a model, in place, and return it: `surgery.convert(…).apply(…)`.

    Evaluation gives the same outputs, except for "group" and "layer". To see first what would happen, print
    `normsmith.surgery.convert(model, to=...)`, which says more about every argument.

    Args:
        to: "batch", "renorm", "sync", "ghost", "frozen", "torch", "group" or "layer".
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.
        optimizer, ema: what belongs to the model and is to follow it.
        copy: leave the model alone, and return a converted copy.
        partial: convert what can be converted in spite of what cannot.
        options: of the new layers, e.g. `total_steps` of renorm.

    Raises:
        InputError: an unknown `to` or option.
        SurgeryError: with the model untouched: it has no batch norm, or one that cannot be converted.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> convert(model, to="renorm", total_steps=1000)[1]
    BatchRenorm2d(8, ...)
    """
    plan = plan_of(model, to, only=only, **options)
    return plan.apply(optimizer=optimizer, ema=ema, copy=copy, partial=partial)
