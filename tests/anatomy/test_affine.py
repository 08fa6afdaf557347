"""The two numbers of each channel that a batch norm amounts to in evaluation."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import lived_in
from torch import Tensor, nn

from normsmith import layers
from normsmith._torch import NORMS_TAKE_BIAS
from normsmith.anatomy.affine import Affine, affine_of
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.read_batch_norm import read_batch_norm


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def parts(norm: nn.Module) -> BatchNorm:
    found = read_batch_norm(norm)
    assert isinstance(found, BatchNorm)
    return found


NORMS = {
    "torch's": lambda: nn.BatchNorm1d(3, eps=1e-3),
    "without affine": lambda: nn.BatchNorm1d(3, affine=False),
    **({"without bias": lambda: nn.BatchNorm1d(3, bias=False)} if NORMS_TAKE_BIAS else {}),
    "ours": lambda: layers.BatchNorm1d(3),
    "by its deviation": lambda: layers.BatchRenorm1d(3, schedule="keras", track="std"),
}


@pytest.mark.parametrize("name", NORMS)
def test_scale_and_shift_are_what_evaluation_computes(name):
    norm = lived_in(NORMS[name]()).double().eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    found = affine_of(parts(norm))
    assert found.scale.dtype == torch.float64
    close(x * found.scale + found.shift, norm(x))


def test_half_precision_is_widened_before_anything_is_computed():
    norm = lived_in(nn.BatchNorm1d(3)).half()
    found = affine_of(parts(norm))
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    close(found.scale, scale)
    close(found.shift, norm.bias.double() - norm.running_mean.double() * scale)


def test_channels_of_a_norm_that_stand_for_several_of_the_layers():
    norm = Affine(torch.tensor([0.5, 2.0]).double(), torch.tensor([-1.0, 3.0]).double())
    found = norm.repeated(3, 12)
    assert torch.equal(found.scale, norm.scale[[0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]])
    assert torch.equal(found.shift, norm.shift[[0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]])
