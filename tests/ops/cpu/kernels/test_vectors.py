"""Operations on rows, 16 elements at a time: all dtypes, whole rows and ends, and nothing written beyond them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")
from numba import njit
from numpy import float32, float64, int16, uint16
from tests.ops.cpu.kernels.programs import block_of, program

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.compile import converts_half
from normsmith.ops.cpu.kernels.vectors import ROWS, TABLE, operation

STORED = {
    torch.float32: (float32, float32),
    torch.float64: (float64, float64),
    torch.bfloat16: (uint16, float32),
    torch.float16: (int16, float32),
}


def _plus_coefficient(v, coefficients, sums):
    value = v.add(v.read(slot.X, v.zero), coefficients[0])
    v.write(slot.Y, value)
    return [v.add(sums[0], value)]


def compiled(dtype, by_column):
    """y = x + c for a row, or for four; the sums of y in another table."""
    like, work = STORED[dtype]
    made = operation(_plus_coefficient, (0,), (1,), by_column=by_column)
    on_four, on_one = made.on_four, made.on_one

    @njit
    def body(a, f):
        stride, n = a[slot.STRIP], a[slot.ROWS]
        if a[slot.FOLD] == 1:
            on_one(a[slot.SELF], 0, stride, n, 0, 0, 0, 0, 0, a[slot.TERMS], None, None, like, work)
        else:
            on_four(a[slot.SELF], 0, stride, n, 0, 0, 0, 0, 0, a[slot.TERMS], None, None, like, work)

    return program(body)


def start(run, x, y, tables, rows, n):
    import ctypes

    block = block_of(
        X=x.data_ptr(),
        Y=y.data_ptr(),
        TERMS=tables.data_ptr(),
        FOLD=rows,
        ROWS=n,
        STRIP=x.stride(0) * x.itemsize,
    )
    block[slot.SELF] = ctypes.addressof(block)
    run(block)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_each_column_has_its_own_coefficient_and_sum(dtype):
    if dtype == torch.float16 and not converts_half():
        pytest.skip("this processor converts no float16")
    run = compiled(dtype, by_column=True)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    for rows, n in ((1, 1), (1, 16), (1, 37), (ROWS, 16), (ROWS, 48)):
        x, y = torch.randn(ROWS, 64).to(dtype), torch.full((ROWS, 64), 7.0).to(dtype)
        tables = torch.zeros(2, TABLE, dtype=work)
        tables[0, :64] = torch.randn(64)
        start(run, x, y, tables, rows, n)
        want = (x[:rows, :n].to(work) + tables[0, :n]).to(dtype)
        assert torch.equal(y[:rows, :n], want)
        assert (y[:rows, n:] == 7).all(), "written beyond the end of the row"
        assert (y[rows:] == 7).all(), "written to another row"
        exact = (x[:rows, :n].to(work) + tables[0, :n]).sum(0)
        torch.testing.assert_close(tables[1, :n], exact)


def test_a_plane_has_one_coefficient_and_16_sums():
    run = compiled(torch.float32, by_column=False)
    for rows, n in ((1, 37), (ROWS, 48)):
        x, y = torch.randn(ROWS, 64), torch.full((ROWS, 64), 7.0)
        tables = torch.zeros(2, TABLE)
        tables[0, :16] = 0.5
        start(run, x, y, tables, rows, n)
        assert torch.equal(y[:rows, :n], x[:rows, :n] + 0.5)
        assert (y[:rows, n:] == 7).all()
        if rows == ROWS:  # at the end of a row sums are made of what is not there, too
            torch.testing.assert_close(tables[1, :16].sum(), y[:rows, :n].sum(), rtol=1e-5, atol=1e-4)
        assert (tables[1, 16:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_to_the_nearest_as_torch_does(dtype):
    if dtype == torch.float16 and not converts_half():
        pytest.skip("this processor converts no float16")
    run = compiled(dtype, by_column=True)
    special = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, torch.nan, 65504.0, 1e-3])
    x = torch.cat([special, torch.randn(40) * 100]).to(dtype).expand(ROWS, 48).contiguous()
    y, tables = torch.zeros_like(x), torch.zeros(2, TABLE)
    tables[0, :48] = torch.randn(48)
    start(run, x, y, tables, 1, 48)
    torch.testing.assert_close(
        y[0], (x[0].float() + tables[0, :48]).to(dtype), rtol=0, atol=0, equal_nan=True
    )
