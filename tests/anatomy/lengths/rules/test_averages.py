"""Sums, averages and extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from unpadded import Runs, assert_as_alone, padded, run_padded

from normsmith import use_lengths
from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, 4, n) for n in (9, 5, 12)]
IMAGES = [torch.randn(1, 4, *size) for size in ((12, 9), (7, 16))]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x.mean(-1), id="mean"),
        pytest.param(
            lambda x: x.mean(dim=(1, 2), keepdim=True).expand(-1, 2, 1), id="mean over channels too"
        ),
        pytest.param(lambda x: torch.std(x, 2), id="std"),
        pytest.param(lambda x: x.var(-1, unbiased=False), id="biased variance"),
        pytest.param(lambda x: x.var(-1, correction=2, keepdim=True), id="another correction"),
        pytest.param(lambda x: x.max(-1).values + x.min(dim=-1)[0], id="extremes"),
        pytest.param(lambda x: x.amax((1, 2)) - x.amin((1, 2)), id="range"),
        pytest.param(lambda x: x.argmax(-1).float(), id="where the largest is"),
        pytest.param(lambda x: torch.logsumexp(x, 2), id="logsumexp"),
        pytest.param(lambda x: (x > 1).any(-1).float() + (x < 5).all(-1).float(), id="any and all"),
        pytest.param(lambda x: torch.max(x, -x).sum(dim=1), id="of two tensors, then over channels"),
        pytest.param(lambda x: x.long().amax(-1).float(), id="whole numbers"),
        pytest.param(lambda x: x.median(1).values, id="median over channels"),
        pytest.param(lambda x: x / x.norm(dim=1, keepdim=True), id="norm over channels"),
        pytest.param(lambda x: torch.norm(x, 2, -1), id="norm over time"),
        pytest.param(nn.AdaptiveAvgPool1d(1), id="one average"),
        pytest.param(nn.AdaptiveAvgPool1d(4), id="four averages"),
        pytest.param(nn.AdaptiveMaxPool1d(1), id="one maximum"),
    ],
)
def test_over_time(function) -> None:
    assert_as_alone(function if isinstance(function, nn.Module) else Runs(function), SAMPLES)


@pytest.mark.parametrize("size", [1, (2, 3), (None, 2)])
def test_adaptive_averages_of_images(size) -> None:
    assert_as_alone(nn.AdaptiveAvgPool2d(size), IMAGES, (-2, -1))


def test_over_everything_each_valid_position_counts_once() -> None:
    net = Runs(lambda x: x.mean())
    with use_lengths(net, [9, 5, 12]):
        mean = net(padded(SAMPLES))
    torch.testing.assert_close(mean, torch.cat([sample.flatten() for sample in SAMPLES]).mean())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.mean(0), "over the samples and leaves their lengths"),
        (lambda x: x.median(-1).values, "not known"),
        (lambda x: x.norm(-math.inf, -1), "a norm of p=-inf"),
        (nn.AdaptiveMaxPool1d(2), "its windows depend on the length"),
    ],
)
def test_what_is_not_known_is_refused(function, words) -> None:
    with pytest.raises(LengthsError, match=words):
        run_padded(function, SAMPLES)
