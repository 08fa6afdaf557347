"""Batches whose channels lie side by side, at the sizes where the loops of the kernels end."""

from __future__ import annotations

import pytest
import torch
from tests.contracts.backend import BackendContract, options_for

pytest.importorskip("numba")
from normsmith.ops import Running
from normsmith.ops.cpu.backend import Numba
from normsmith.ops.cpu.kernels.arguments import RUN
from normsmith.ops.cpu.kernels.columns import CHUNK
from normsmith.ops.cpu.layout import PLANES_FROM, layout_of

SHAPES = [
    pytest.param((CHUNK + 1, RUN), id="a chunk of lines, and one line"),
    pytest.param((4 * CHUNK - 1, RUN // 2), id="lines of two rows, the last one short"),
    pytest.param((6, RUN + 17), id="a second strip of few columns"),
    pytest.param((6, RUN + 48), id="strips of whole vectors"),
    pytest.param((71, 64), id="lines of rows of whole vectors"),
    pytest.param((2 * CHUNK, 3), id="hundreds of rows a line"),
    pytest.param((CHUNK + 3, 37, 7), id="planes too small to stand alone"),
    pytest.param((5, 3, PLANES_FROM - 1), id="the largest of them"),
]
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param(
        {"mask": True, "sample_weight": True, "activation": "relu"}, id="mask, weights, residual, relu"
    ),
    pytest.param({"mask": True}, id="mask"),
    pytest.param({"ghost_batch_size": True}, id="ghost"),
    pytest.param({"ghost_batch_size": True, "mask": True, "sample_weight": True}, id="ghost, mask, weights"),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients_equal_the_oracle(shape, options):
    contract = BackendContract()
    contract.backend = Numba()
    x = torch.randn(shape) * 2 + 3
    assert layout_of(x).name == "columns"
    residual = torch.randn(shape) if "activation" in options else None
    channels = shape[1]
    running = Running(torch.randn(channels), torch.rand(channels) + 0.5)
    weight, bias = torch.rand(channels) + 0.5, torch.randn(channels)
    contract.agrees(x, weight, bias, residual, running, options_for(x, options), 2e-5)
