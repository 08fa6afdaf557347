"""Tensors without lengths, and those that have the padded size."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from unpadded import Runs, assert_as_alone, run_padded

from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, 4, n) for n in (9, 5)]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x + torch.arange(x.size(-1)).float().sin(), id="positions"),
        pytest.param(
            lambda x: x * torch.zeros(x.shape).add(2).sum(1, keepdim=True), id="summed over channels"
        ),
        pytest.param(
            lambda x: x + torch.stack([torch.ones(x.size(-1)), torch.ones(x.size(-1))] * 2), id="stacked"
        ),
        pytest.param(lambda x: x + F.linear(torch.ones(x.size(-1), 2), torch.ones(4, 2)).T, id="linear"),
    ],
)
def test_constants_of_the_padded_size_are_used_position_by_position(function) -> None:
    assert_as_alone(Runs(function), SAMPLES)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x + F.avg_pool1d(torch.ones(1, 4, x.size(-1)), 3, 1, 1), id="pooled"),
        pytest.param(lambda x: x + torch.arange(x.size(-1)).float().mean(), id="averaged"),
        pytest.param(lambda x: x + torch.arange(x.size(-1)).float().softmax(0), id="a softmax"),
        pytest.param(lambda x: x + torch.arange(x.size(-1)).flip(0), id="turned around"),
        pytest.param(
            lambda x: x + (torch.ones(3, 20)[:, : x.size(-1)] @ torch.ones(x.size(-1), 1)).sum(), id="summed"
        ),
    ],
)
def test_what_goes_over_their_positions_is_refused(function) -> None:
    with pytest.raises(LengthsError, match="goes over positions of a constant of the padded size"):
        run_padded(function, SAMPLES)


def test_they_make_nothing_as_long_as_the_padded_batch() -> None:
    with pytest.raises(LengthsError, match="a constant of the padded size meets what has no lengths"):
        run_padded(lambda x: x.mean(-1, keepdim=True) + torch.zeros(x.size(-1)), SAMPLES)
