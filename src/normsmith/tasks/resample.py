"""The metric on other samples like those of a split: how much it would move if the split had been drawn again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch import leaves_and_layout, with_layout
from normsmith.tasks.data import metric_of, outputs
from normsmith.tasks.datasets import length
from normsmith.tasks.task import Task


def resampled_metric(task: Task, model: nn.Module, split: str, times: int) -> tuple[float, ...]:
    """The metric on `times` bootstrap samples of a split, of a model that is inside `evaluating` already.

    Each draws as many samples as the split has, with replacement; draw number k is the same for every model, so that
    two models are compared on the same samples. Empty where outputs or targets are not tensors with a row a sample.

    Raises TaskError as `evaluate` does.

    Source: Efron, Ann. Statist. 7, 1979.

    >>> x = torch.arange(6.0)
    >>> task = Task(model=nn.Identity, train=(x, x), validation=(x, x), test=(x, x + 1), batch_size=4,
    ...             loss=nn.MSELoss(), metric=nn.L1Loss())
    >>> resampled_metric(task, task.model(), "test", 3)
    (1.0, 1.0, 1.0)
    """
    count = length(task.dataset(split))
    leaves, layout = leaves_and_layout(outputs(task, model, split))
    if not all(isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) for leaf in leaves):
        return ()
    return tuple(
        metric_of(
            task, split, *with_layout([leaf[_draw(count, k).to(leaf.device)] for leaf in leaves], layout)
        )
        for k in range(times)
    )


def _draw(count: int, number: int) -> Tensor:
    generator: Any = torch.Generator().manual_seed(number)
    return torch.randint(count, (count,), generator=generator)
