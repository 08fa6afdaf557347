"""Batches with a plane for every channel, at the sizes where the loops of the kernels end."""

from __future__ import annotations

import pytest
import torch
from tests.contracts.backend import BackendContract, options_for

pytest.importorskip("numba")
from normsmith.ops import Running
from normsmith.ops.cpu.backend import Numba
from normsmith.ops.cpu.kernels.arguments import LANES
from normsmith.ops.cpu.kernels.planes import MANY
from normsmith.ops.cpu.kernels.vectors import ROWS
from normsmith.ops.cpu.layout import PLANES_FROM, layout_of

SHAPES = [
    pytest.param((5, 3, PLANES_FROM), id="the smallest planes, four and one"),
    pytest.param((4, 3, PLANES_FROM + LANES + 1), id="planes with an end"),
    pytest.param((1, 3, 4 * LANES * 5 + 3), id="one sample, as quarters"),
    pytest.param((2, 2, MANY // ROWS + 1), id="a run of positions, and one position"),
    pytest.param((17, 2, 1024), id="planes that share the sets of a cache"),
]
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param(
        {"mask": True, "sample_weight": True, "activation": "relu"}, id="mask, weights, residual, relu"
    ),
    pytest.param({"ghost_batch_size": True}, id="ghost"),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients_equal_the_oracle(shape, options):
    contract = BackendContract()
    contract.backend = Numba()
    x = torch.randn(shape) * 2 + 3
    assert layout_of(x).name == "planes"
    residual = torch.randn(shape) if "activation" in options else None
    channels = shape[1]
    running = Running(torch.randn(channels), torch.rand(channels) + 0.5)
    weight, bias = torch.rand(channels) + 0.5, torch.randn(channels)
    contract.agrees(x, weight, bias, residual, running, options_for(x, options), 2e-5)
