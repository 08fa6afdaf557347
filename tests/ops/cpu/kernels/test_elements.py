"""The operations of batch norm on a row: what padding counts, and where the bits of ReLU are kept and read."""

from __future__ import annotations

import ctypes

import pytest
import torch

pytest.importorskip("numba")
from numba import njit
from numpy import float32
from tests.ops.cpu.kernels.programs import block_of, program

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.elements import (
    AROUND,
    COUNT,
    FIRST,
    MEAN,
    MOMENT,
    OFFSET,
    PLAIN,
    SCALE,
    SECOND,
    SHIFT,
    SLOPE,
    operations,
)
from normsmith.ops.cpu.kernels.vectors import TABLE

TABLES = {
    "around": AROUND,
    "mean": MEAN,
    "scale": SCALE,
    "shift": SHIFT,
    "offset": OFFSET,
    "slope": SLOPE,
}
N = 37
CODE = torch.tensor([1.0, -1.0, 0.5, 0.0]).repeat(10)[:N]
"""Weights, and −1 for padding."""


def compiled(name, added=None, coded=None):
    """An operation on one row; `added` and `coded` are None or True."""
    on_one = operations(by_column=True)[name].on_one

    @njit
    def body(a, f):
        on_one(
            a[slot.SELF],
            0,
            0,
            a[slot.ROWS],
            a[slot.CODE],
            0,
            a[slot.BITS],
            0,
            0,
            a[slot.TERMS],
            added,
            coded,
            float32,
            float32,
        )

    run = program(body)

    def on_row(tables, **slots):
        block = block_of(ROWS=N, TERMS=tables.data_ptr(), **slots)
        block[slot.SELF] = ctypes.addressof(block)
        run(block)

    return on_row


def tables_of(**values):
    tables = torch.zeros(7, TABLE)
    for name, value in values.items():
        tables[TABLES[name], :N] = value
    return tables


def test_sums_are_weighted_and_padding_counts_nothing():
    x = torch.randn(N)
    x[CODE < 0] = torch.nan
    tables = tables_of(around=0.5)
    compiled("add_sums", coded=True)(tables, X=x.data_ptr(), CODE=CODE.data_ptr())
    weight = CODE.clamp(min=0)
    apart = torch.where(weight > 0, x - 0.5, 0.0)
    torch.testing.assert_close(tables[FIRST, :N], weight * apart)
    torch.testing.assert_close(tables[SECOND, :N], weight * apart.square())
    torch.testing.assert_close(tables[COUNT, :N], weight)


def test_relu_after_a_residual_leaves_a_bit_per_element():
    x, z, y = torch.randn(3, N)
    bits = torch.zeros(3, dtype=torch.int16)
    tables = tables_of(mean=0.25, scale=2.0, shift=0.5)
    compiled("normalise", added=True, coded=True)(
        tables, X=x.data_ptr(), Y=y.data_ptr(), RESIDUAL=z.data_ptr(), CODE=CODE.data_ptr(),
        BITS=bits.data_ptr(), RELU=1,
    )  # fmt: skip
    before = (x - 0.25) * 2 + 0.5 + z
    torch.testing.assert_close(y, torch.where(CODE < 0, 0.0, before.relu()))
    kept = [bool(int(bits[k // 16]) >> k % 16 & 1) for k in range(N)]
    assert kept == (before > 0).tolist()


def test_the_gradient_goes_by_the_bits_where_there_are_any():
    g, x = torch.randn(2, N)
    bits = torch.tensor([0b0101010101010101] * 3, dtype=torch.int16)
    passed = torch.arange(N) % 2 == 0
    tables = tables_of(mean=0.25, scale=2.0, shift=0.5)
    run = compiled("add_gradient_sums", added=True)
    run(tables, G=g.data_ptr(), X=x.data_ptr(), BITS=bits.data_ptr(), RELU=1)
    torch.testing.assert_close(tables[PLAIN, :N], torch.where(passed, g, 0.0))
    torch.testing.assert_close(tables[MOMENT, :N], torch.where(passed, g * (x - 0.25), 0.0))


@pytest.mark.parametrize("added", [None, True])
def test_without_bits_relu_is_looked_up_again(added):
    g, x = torch.randn(2, N)
    tables = tables_of(mean=0.25, scale=2.0, shift=0.5)
    compiled("add_gradient_sums", added)(tables, G=g.data_ptr(), X=x.data_ptr(), RELU=1)
    passed = (x - 0.25) * 2 + 0.5 > 0
    torch.testing.assert_close(tables[PLAIN, :N], torch.where(passed, g, 0.0))


def test_dx_is_0_in_padding_and_without_the_sums_where_the_weight_is_0():
    g, x, dx, dz = torch.randn(4, N)
    tables = tables_of(mean=0.25, scale=2.0, shift=0.5, offset=0.125, slope=3.0)
    compiled("differentiate", added=True, coded=True)(
        tables,
        G=g.data_ptr(),
        X=x.data_ptr(),
        DX=dx.data_ptr(),
        DRESIDUAL=dz.data_ptr(),
        CODE=CODE.data_ptr(),
    )
    want = 2 * g - CODE * (0.125 + 3 * (x - 0.25))
    torch.testing.assert_close(dx, torch.where(CODE < 0, 0.0, want))
    torch.testing.assert_close(dz, torch.where(CODE < 0, 0.0, g))
