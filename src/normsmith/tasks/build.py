"""Building a task's network from a seed, without disturbing the caller's random state."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from normsmith._text import error_text
from normsmith.tasks.calls import users_code
from normsmith.tasks.task import Task


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed torch, numpy and Python's random inside the block, and put their states back after it.

    That is torch on the CPU and on `device`, numpy (if it is imported) and `random`.

    >>> with seeded(3):
    ...     first = torch.rand(2)
    >>> with seeded(3):
    ...     bool((torch.rand(2) == first).all())
    True
    """
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            _seed_torch(seed, device)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


def _seed_torch(seed: int, device: str) -> None:
    """Seed the CPU's generator alone where that is enough.

    `torch.manual_seed` writes down a stack trace for each kind of device that is not in use yet, which takes longer
    than everything else here.
    """
    on_cpu = torch.device(device).type == "cpu"
    (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)


def build(task: Task, seed: int) -> nn.Module:
    """A new network of the task on its device, its weights decided by `seed` alone.

    The random state of the caller is as before. Raises TaskError when the factory fails or returns no module.

    >>> task = Task(model=lambda: nn.Linear(2, 1), train=(torch.zeros(80, 2),), test=(torch.zeros(1, 2),),
    ...             loss=nn.MSELoss(), metric=nn.MSELoss())
    >>> bool((build(task, 5).weight == build(task, 5).weight).all())
    True
    """
    try:
        torch.empty(0, device=task.device)
    except (RuntimeError, AssertionError) as error:
        raise task.error(f"device {task.device!r} cannot be used: {error}") from error
    with (
        seeded(seed, task.device),
        users_code(lambda error: task.error(f"the model factory raised {error_text(error)}")),
    ):
        model: Any = task.model()
    if not isinstance(model, nn.Module):
        raise task.error(f"the model factory must return an nn.Module, got {type(model).__name__}")
    return model.to(task.device)
