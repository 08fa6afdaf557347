"""Calls of the CPU row on random tensors, and all that forward and backward write for them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tests.contracts.backend import OPTIONS, options_for

from normsmith.ops import Running
from normsmith.ops._check import make_call
from normsmith.ops.call import Update
from normsmith.ops.cpu.backend import Numba

SHAPES = [
    pytest.param((1000, 70), id="rows"),
    pytest.param((8, 16, 20, 20), id="planes"),
    pytest.param((2, 2, 210, 210), id="fewer channels than threads want"),
    pytest.param((40, 40, 7, 7), id="small planes"),
    pytest.param((400, 16, 4, 5), id="small planes of few channels"),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EACH_OPTION = [name for name in OPTIONS if name != "gelu"]
"""All but one in which torch computes too."""


def make(shape, dtype=torch.float32, layout=torch.contiguous_format, option="renorm"):
    """A call on random tensors: batch, partners, running statistics, and the options asked for."""
    work = torch.float64 if dtype == torch.float64 else torch.float32
    x = (torch.randn(shape) * 2 + 3).to(dtype).to(memory_format=layout)
    channels = shape[1]
    running = Running(torch.randn(channels, dtype=work), torch.rand(channels, dtype=work) + 0.5)
    weight, bias = torch.rand(channels, dtype=work) + 0.5, torch.randn(channels, dtype=work)
    residual = torch.randn_like(x) if "residual" in option else None
    call = make_call(x, **options_for(x, OPTIONS[option]))
    return x, weight, bias, residual, running, call, torch.randn_like(x)


def everything(x, weight, bias, residual, running, call, g):
    """All that forward and backward write, running statistics among it."""
    running = Running(*(None if buffer is None else buffer.clone() for buffer in running))
    row = Numba()
    assert row.supports(x, call) is None
    y, kept, _ = row.forward(x, weight, bias, residual, running, call, Update(0.1, True))
    dx, dresidual, affine = row.backward(g, x, residual, kept, call, True)
    found = [y, dx, dresidual, affine.weight, affine.bias, running.mean, running.var]
    return [tensor for tensor in found if tensor is not None]


def python(code, bound=120, **environment):
    """What a fresh process prints, and what it says on its standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=bound,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
