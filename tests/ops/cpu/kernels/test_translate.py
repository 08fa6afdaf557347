"""Parts of kernels mean what Python means by them, and what is not translated is refused."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

pytest.importorskip("numba")
from numpy import float32, float64
from tests.ops.cpu.kernels.programs import block_of, program

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import SLOTS
from normsmith.ops.cpu.kernels.lanes import load_some, size_of, some, store_some
from normsmith.ops.cpu.kernels.translate import inlined, part

FACTOR = 3


@inlined
def _pair(n, m):
    return n // m, n % m


@part
def _first_above(a, least, stop):
    for i in range(stop):
        if a[i] > least:
            return i
    return -1


def _scaled_by(factor):
    @part
    def scaled(value, work):
        """A docstring is no part of the program."""
        return work(value) * factor

    return scaled


_doubled = _scaled_by(2.0)


@part
def _everything(a, f, extras, work):
    quotient, rest = _pair(a[slot.X], 7)
    a[10], a[11] = quotient, rest
    total = steps = 0
    for i in range(1, a[slot.X], FACTOR):
        if (i % 2 == 0 and i > 4) or i == 1:
            total += i
        elif not i < 10:
            total -= 1
        steps += 1
    a[12], a[13] = total, steps
    a[14] = _first_above(a, 100, 3)
    a[15] = _first_above(a, 1_000_000_000_000, 3) if a[slot.X] < 0 else max(2, min(a[slot.X], 9))
    a[16] = size_of(work)
    if extras is not None:
        a[17] = extras  # does not exist where there are none: `None` is no number
    else:
        a[17] = 5
    f[20] = _doubled(f[slot.EPS], work)
    f[21] = 1 / (f[20] if f[20] > 0.0 else 2.0) + math.sqrt(a[slot.X])
    f[22] = -f[slot.EPS] if math.isfinite(f[slot.EPS]) else math.inf
    pair = (0.5, a[slot.X])
    if a[slot.X] & 1:
        pair = (1.5, 0)
    f[23] = pair[0] + pair[1]


@part
def _without(a, f):
    _everything(a, f, None, float64)


@part
def _with(a, f):
    _everything(a, f, 1, float32)


def _in_python(x, eps, extras, work):
    """The same, written for Python."""
    quotient, rest = divmod(x, 7)
    chosen = range(1, x, FACTOR)
    total = sum(i if (i % 2 == 0 and i > 4) or i == 1 else -1 if i >= 10 else 0 for i in chosen)
    doubled = float(work(eps)) * 2.0
    integers = [quotient, rest, total, len(chosen), 1, max(2, min(x, 9)), work(0).itemsize, extras or 5]
    pair = (1.5, 0) if x & 1 else (0.5, x)
    return integers, [doubled, 1 / (doubled if doubled > 0 else 2.0) + math.sqrt(x),
                      -eps if math.isfinite(eps) else math.inf, sum(pair)]  # fmt: skip


@pytest.fixture(scope="module")
def programs():
    return {None: program(_without), 1: program(_with)}


@pytest.mark.parametrize("extras", [None, 1])
@pytest.mark.parametrize(("x", "eps"), [(23, 0.75), (8, -1.5), (1, math.inf), (40, 0.1)])
def test_parts_compute_what_python_does(x, eps, extras, programs):
    block = block_of(THREAD=7, THREADS=101, X=x, EPS=eps)
    programs[extras](block)
    integers, floats = _in_python(x, eps, extras, float64 if extras is None else float32)
    assert list(block[10:18]) == integers
    assert list((ctypes.c_double * SLOTS).from_buffer(block)[20:24]) == pytest.approx(floats, rel=1e-15)


@part
def _lanes(a, f):
    n = a[slot.CHANNELS]
    x, scale = float64(load_some(a[slot.X], 0, n, float32)), some(2.0, n)
    scale += 1  # of all
    large = x > 1.0 and math.isfinite(x)
    y = math.sqrt(x) * scale / 4 if large else -x
    half = x == 0.5
    y = y if not half or a[slot.CHANNELS] == 3 else 0.25
    store_some(a[slot.Y], 0, float32(y), n, float32)


@pytest.mark.parametrize("n", [1, 3, 16])
def test_operations_on_lanes_are_done_with_each_number(n):
    x = torch.tensor([0.5, 4.0, math.inf, math.nan, 0.0, -3.0, *range(2, 12)])
    y = torch.full((18,), 7.0)
    program(_lanes)(block_of(CHANNELS=n, X=x.data_ptr(), Y=y[1:].data_ptr()))
    want = [math.sqrt(each) * 3 / 4 if 1 < each < math.inf else -each for each in x.tolist()]
    want[0] = -0.5 if n == 3 else 0.25
    torch.testing.assert_close(y, torch.tensor([7.0, *want[:n], *[7.0] * (17 - n)]), equal_nan=True)


def test_an_if_on_lanes_is_refused():
    @part
    def branches(a, f):
        if load_some(a[slot.X], 0, a[slot.CHANNELS], float64) > 0.0:
            a[slot.Y] = 1

    with pytest.raises(Exception, match=r"branches.*: if load_some"):
        program(branches)


def test_what_is_not_translated_is_named():
    @part
    def loops(a, f):
        while a[0] > 0:
            a[0] = a[0] - 1

    with pytest.raises(Exception, match=r"loops.*: while a\[0\] > 0"):
        program(loops)
