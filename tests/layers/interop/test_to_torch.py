"""State dicts for models of torch's own batch norm layers, and back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normsmith.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchRenorm1d,
)
from normsmith.layers.interop import to_torch


def trained(layer: nn.Module, x: torch.Tensor) -> nn.Module:
    for _ in range(3):
        layer(x)
    if layer.weight is not None:
        with torch.no_grad():
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_()
    return layer


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (BatchNorm1d, nn.BatchNorm1d, (8, 3)),
        (BatchNorm2d, nn.BatchNorm2d, (8, 3, 4, 4)),
        (BatchRenorm1d, nn.BatchNorm1d, (8, 3)),
    ],
    ids=["1d", "2d", "renorm"],
)
def test_torch_both_ways_strictly(ours, theirs, shape, affine, assign):
    settings = {"schedule": "constant"} if ours is BatchRenorm1d else {}
    x = 3 + 2 * torch.randn(shape)
    one, other = trained(ours(3, affine=affine, **settings), x), theirs(3, affine=affine)
    other.load_state_dict(copy.deepcopy(one.state_dict()), assign=assign)
    torch.testing.assert_close(other.eval()(x), one.eval()(x))
    back = ours(3, affine=affine, **settings)
    back.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign)
    assert torch.equal(back.eval()(x), one.eval()(x))
    assert back.num_batches_tracked == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("assign", [True, False])
def test_torch_both_ways_in_half_precision(dtype, assign):
    x = (3 + 2 * torch.randn(8, 3)).to(dtype)
    ours = trained(BatchNorm1d(3), x.float()).to(dtype)
    assert ours.running_mean.dtype == torch.float32
    theirs = nn.BatchNorm1d(3).to(dtype)
    theirs.load_state_dict(to_torch(ours), assign=assign)
    assert theirs.running_mean.dtype == dtype
    torch.testing.assert_close(theirs.eval()(x).float(), ours.eval()(x).float(), atol=0.05, rtol=0.05)
    back = BatchNorm1d(3).to(dtype)
    back.load_state_dict(theirs.state_dict(), assign=assign)
    assert {back.running_mean.dtype, back.running_var.dtype} == {torch.float32}
    assert back.weight.dtype == dtype
    torch.testing.assert_close(back.eval()(x).float(), ours.eval()(x).float(), atol=0.05, rtol=0.05)


def test_without_to_torch_half_precision_by_assign_leaves_float32_statistics():
    ours = BatchNorm1d(3).half()
    theirs = nn.BatchNorm1d(3).half()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    assert theirs.running_mean.dtype == torch.float32  # which is why to_torch exists


def test_standard_deviations_become_variances_in_a_whole_model():
    x = 3 + 2 * torch.randn(16, 3)
    ours = nn.Sequential(nn.Linear(3, 3), BatchRenorm1d(3, schedule="keras", track="std"), BatchNorm1d(3))
    for _ in range(5):
        ours(x)
    theirs = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    theirs.load_state_dict(to_torch(ours))
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x))
    assert "1.running_std" in ours.state_dict(), "the model itself is as it was"
