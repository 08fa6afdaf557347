"""Backward passes and checkpointed segments are still told apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from normsmith import _torch


def test_backward_passes_have_numbers() -> None:
    numbers = []

    def record(g: Tensor) -> None:
        numbers.append(_torch.backward_number())

    assert _torch.backward_number() == -1
    for _ in range(2):
        x = torch.ones(2, requires_grad=True)
        x.register_hook(record)
        y = x * 2
        y.register_hook(record)
        y.sum().backward()
    assert _torch.backward_number() == -1
    assert -1 not in numbers
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_segment_is_the_one_that_ran(reentrant: bool) -> None:
    ran, recomputed = [], []

    def segment(x: Tensor) -> Tensor:
        if _torch.backward_number() == -1:
            ran.append(_torch.checkpointed_segment())
        else:
            recomputed.append(_torch.recomputed_segment())
        return x.exp()

    x = torch.ones(2, requires_grad=True)
    first = checkpoint(segment, x, use_reentrant=reentrant)
    second = checkpoint(segment, x, use_reentrant=reentrant)
    first.sum().backward()
    second.sum().backward()
    assert None not in ran
    assert ran[0] is recomputed[0]
    assert ran[1] is recomputed[1]
    assert ran[0] is not ran[1]


def test_no_segment_is_seen_outside_of_checkpoints() -> None:
    assert _torch.checkpointed_segment() is None
    assert _torch.recomputed_segment() is None
    with torch.no_grad():
        assert _torch.checkpointed_segment() is None
    with torch.autograd.graph.save_on_cpu():
        assert _torch.checkpointed_segment() is None
