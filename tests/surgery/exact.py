"""Networks in float64 and evaluation, and whether two of them compute the same."""

from __future__ import annotations

import torch
from tests.surgery.networks import lived_in
from torch import Tensor, nn


def ready(model: nn.Module) -> nn.Module:
    """In float64 and evaluation, with statistics and an affine as after training."""
    return lived_in(model.double()).eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2 + 1


def check_same(model: nn.Module, folded: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)
