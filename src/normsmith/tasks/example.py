"""A batch of a task and the way its network is called: what surgery follows a network with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from normsmith.tasks.build import seeded
from normsmith.tasks.data import batches
from normsmith.tasks.task import Task


def example(task: Task) -> Any:
    """A training batch of `task.batch_size`, the same at each call; the caller's random state is as before.

    >>> from normsmith.tasks.digits import digits_mlp
    >>> [tuple(part.shape) for part in example(digits_mlp())]
    [(64, 64), (64,)]
    """
    with seeded(0, task.device):  # a dataset that augments draws from the global state
        return next(batches(task, torch.Generator().manual_seed(0)))


def forward_of(task: Task) -> Callable[[nn.Module, Any], Any]:
    """The task's `forward` without the target: (model, batch) → output, as `normsmith.surgery` takes it.

    >>> from normsmith.tasks.digits import digits_mlp
    >>> task = digits_mlp()
    >>> forward_of(task)(task.model(), example(task)).shape
    torch.Size([64, 10])
    """
    return lambda model, batch: task.forward(model, batch)[0]
