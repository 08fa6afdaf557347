"""Groups of ranks still say how long they wait, and sum with gradients."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from tests.ranks import run_ranks

from normsmith import _torch


def _exchange(rank: int, size: int) -> tuple[timedelta, list[float], list[float]]:
    group: Any = dist.group.WORLD
    x = torch.ones(2, requires_grad=True)
    total = _torch.differentiable_sum(x * (rank + 1), group)
    (total * (rank + 1)).sum().backward()
    assert x.grad is not None
    return _torch.timeout_of(group), total.tolist(), x.grad.tolist()


def test_a_group_says_how_long_it_waits_and_its_sum_has_the_gradient_of_a_sum() -> None:
    for rank, (timeout, total, gradient) in enumerate(run_ranks(_exchange, 2, timeout=420)):
        assert timeout == timedelta(minutes=7)
        assert total == [3.0, 3.0]
        assert gradient == [3.0 * (rank + 1)] * 2
