"""Ranks that share statistics, one on the GPU's kernels and one on the reference."""

from __future__ import annotations

import os

import pytest
import torch
from tests.contracts.ranks import RanksContract

from normsmith.ops.gpu.backend import Triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

pytestmark = [
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]


class TestTriton(RanksContract):
    """The row `triton`."""

    backend = Triton()
    device = "cpu" if INTERPRETED else "cuda"
    dtypes = (torch.float32, torch.bfloat16)
    serves_one_value = False
