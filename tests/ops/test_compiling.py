"""What operators of compiled graphs share: when they cannot serve, ghost batches as numbers, and strides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.ops import Sync, compiling
from normsmith.ops.call import Call
from normsmith.ops.compiling import chunks, groups_of, laid_out_like, unfit
from normsmith.ops.moments import ghost_groups


class Alone(Sync):
    """A process group of one rank that exchanges nothing."""

    def __init__(self):
        self.rank, self.ranks = 0, 1


FLOATS = (torch.float32, torch.float64)


@pytest.mark.parametrize(
    ("x", "call", "reason"),
    [
        (torch.ones(4, 3), Call(), None),
        (nn.Parameter(torch.ones(4, 3)), Call(), None),
        (torch.ones(4, 3), Call(by_batch=False), "compilers fuse inference with its neighbours"),
        (torch.ones(4, 3), Call(sync=Alone()), "statistics cross ranks between two halves"),
        (
            torch.ones(4, 3).half(),
            Call(),
            "knows plain tensors of float32, float64, got Tensor, torch.float16",
        ),
    ],
    ids=["plain", "a parameter", "inference", "ranks", "another dtype"],
)
def test_says_why_no_operator_can_serve(x, call, reason):
    assert unfit(x, call, FLOATS) == reason


def test_transforms_get_no_operator():
    reasons = []
    torch.func.vmap(lambda x: reasons.append(unfit(x, Call(), FLOATS)) or x)(torch.ones(2, 4, 3))
    assert reasons == ["transforms and exporters see through every operation"]


def test_exported_programs_get_no_operator(monkeypatch):
    monkeypatch.setattr(compiling, "is_exporting", lambda: True)
    assert unfit(torch.ones(4, 3), Call(), FLOATS) == "transforms and exporters see through every operation"


@pytest.mark.parametrize("size", [None, 2, 3, 4, 7, 8, 9])
@pytest.mark.parametrize("rows", [8, 9])
def test_ghost_batches_come_back_from_their_two_numbers(rows, size):
    x = torch.empty(rows, 3)
    groups = ghost_groups(rows, 1, size)
    again = groups_of(x, *chunks(x, Call(groups=groups)))
    assert again == groups or (again is None and groups.number == 1)


def test_outputs_get_the_strides_that_the_compiler_was_told():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y = torch.randn(2, 3, 4, 5)
    laid = laid_out_like(y, x)
    assert laid.stride() == torch.empty_like(x).stride()
    assert torch.equal(laid, y)
    assert laid_out_like(x, x) is x
    gaps = torch.randn(4, 6)[:, :3]
    dense = torch.randn(4, 3)
    assert laid_out_like(dense, gaps) is dense  # `empty_like` closes the gaps
