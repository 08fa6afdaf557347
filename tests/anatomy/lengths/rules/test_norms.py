"""Norms of torch's functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from unpadded import assert_as_alone, run_padded

from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, 4, n) for n in (9, 5)]


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(2, 4),
        nn.GroupNorm(1, 4, affine=False),
        nn.InstanceNorm1d(4, affine=True),
        nn.BatchNorm1d(4),
    ],
    ids=repr,
)
def test_each_sample_is_what_it_is_alone(norm) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    assert_as_alone(norm, SAMPLES)


def test_within_a_position() -> None:
    steps = [sample.mT.contiguous() for sample in SAMPLES]
    assert_as_alone(nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4)), steps, (1,), layout="NTC")


def test_in_half_precision_statistics_are_in_float32() -> None:
    samples = [sample.bfloat16() + 20 for sample in SAMPLES]
    assert run_padded(nn.GroupNorm(2, 4).bfloat16(), samples).dtype == torch.bfloat16
    assert_as_alone(nn.GroupNorm(2, 4).bfloat16(), samples, tolerance=0.1)


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (nn.BatchNorm1d(4), r"takes no mask, .*convert the model first"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "keeps running statistics"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "weights that are made for one length"),
        (lambda x: F.group_norm(x.mT, 1), "samples first and channels second"),
    ],
)
def test_statistics_with_padding_are_refused(norm, words) -> None:
    with pytest.raises(LengthsError, match=words):
        run_padded(norm, SAMPLES)
