"""Elementwise functions: lengths stay, and sizes become the number of each sample."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from unpadded import Runs, assert_as_alone, run_padded

from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, 3, n) for n in (8, 5)]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: F.gelu(x * 2 + 1).clamp(min=0.1).sqrt_(), id="in a row, one in place"),
        pytest.param(lambda x: torch.where(x > 0, x, -1 / x.size(-1)), id="a size divided"),
        pytest.param(lambda x: x.sum(-1) / x.size(-1), id="an average by hand"),
        pytest.param(lambda x: (x.log().exp() + x.to(torch.float64)).float(), id="NaN where it is padding"),
        pytest.param(lambda x: x + x.mean(-1, keepdim=True).to(x), id="statistics of positions"),
        pytest.param(lambda x: F.prelu(x, torch.full((3,), 0.2)), id="a slope for each channel"),
        pytest.param(lambda x: x.masked_fill(x < 0, 3.0), id="a mask of its own"),
    ],
)
def test_each_sample_is_what_it_is_alone(function) -> None:
    assert_as_alone(Runs(function), [sample.abs() + 0.1 for sample in SAMPLES])


def test_numbers_are_written_by_masks() -> None:
    def fill(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[x > 1] = 0.5
        return x

    assert_as_alone(Runs(fill), SAMPLES)


def test_numbers_written_to_indices_are_refused() -> None:
    def write(x: torch.Tensor) -> torch.Tensor:
        x[:, :, 0] = 0.0
        return x

    with pytest.raises(LengthsError, match="written to indices"):
        run_padded(write, SAMPLES)


def test_a_size_needs_samples() -> None:
    with pytest.raises(LengthsError, match="has none of the samples"):
        run_padded(lambda x: x.flatten(0, 1) * x.size(-1), SAMPLES)
