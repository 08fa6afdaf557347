"""Decisions per channel inside kernels: parts merged by Chan's formula, and sums around a shift."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("numba")
from numba import njit
from numpy import float64
from tests.ops.cpu.kernels.programs import block_of, program

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.lanes import load_some
from normsmith.ops.cpu.kernels.settle import merge, merge_sums
from normsmith.ops.cpu.kernels.translate import part


@njit
def _merge(a, f):
    merge(a, a[slot.PARTIAL], f[slot.EPS], f[slot.R_MAX], f[slot.D_MAX], None)


@njit
def _merge_sums(a, f):
    merge_sums(a, a[slot.PARTIAL], f[slot.EPS], f[slot.MOMENTUM], f[slot.R_MAX], f[slot.D_MAX], None)


@part
def _merge_sums_of_lanes(a, f):
    n = a[slot.CHANNELS]
    shift, first = load_some(a[slot.X], 0, n, float64), load_some(a[slot.Y], 0, n, float64)
    merge_sums(a, a[slot.PARTIAL], f[slot.EPS], shift, first, load_some(a[slot.G], 0, n, float64), n)


@pytest.fixture(scope="module")
def add_part():
    """Adds (count, mean, M2) to a tensor that holds the same three."""
    run = program(_merge)
    return lambda into, count, mean, m2: run(
        block_of(PARTIAL=into.data_ptr(), CHANNELS=1, EPS=count, R_MAX=mean, D_MAX=m2)
    )


@pytest.fixture(scope="module")
def add_sums():
    """Adds a count of values, of which Σ(x − shift) and Σ(x − shift)² are known."""
    run = program(_merge_sums)
    return lambda into, count, shift, first, second: run(
        block_of(PARTIAL=into.data_ptr(), CHANNELS=1, EPS=count, MOMENTUM=shift, R_MAX=first, D_MAX=second)
    )


@pytest.fixture(scope="module")
def add_sums_of_lanes():
    """The same of up to 16 channels side by side."""
    run = program(_merge_sums_of_lanes)
    return lambda into, count, *sums: run(
        block_of(
            PARTIAL=into.data_ptr(),
            CHANNELS=into.shape[1],
            EPS=count,
            **dict(zip("XYG", (each.data_ptr() for each in sums), strict=True)),
        )
    )


def measured(values):
    return float(len(values)), values.mean().item(), values.var(correction=0).item() * len(values)


def empty():
    return torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_parts_of_any_size_make_the_whole(offset, add_part):
    x = torch.randn(20, dtype=torch.float64) + offset
    into = empty()
    for piece in x.split([1, 7, 12]):
        add_part(into, *measured(piece))
    torch.testing.assert_close(into.tolist(), list(measured(x)), rtol=1e-9, atol=1e-9)


def test_a_part_without_values_changes_nothing_whatever_it_holds(add_part):
    into = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    add_part(into, 0.0, math.nan, math.nan)
    assert into.tolist() == [4.0, 2.0, 1.0]


def test_what_is_not_finite_stays(add_part):
    into = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    add_part(into, 1.0, math.inf, 0.0)
    assert into[0] == 5
    assert not into[1:].isfinite().any()


@pytest.mark.parametrize("shift", [0.0, 3.0, -100.0])
def test_sums_around_any_shift_give_the_same_moments(shift, add_sums):
    x = torch.randn(16, dtype=torch.float64) + 3
    into = empty()
    for piece in x.split(8):
        apart = piece - shift
        add_sums(into, 8.0, shift, apart.sum().item(), apart.square().sum().item())
    torch.testing.assert_close(into.tolist(), list(measured(x)), rtol=1e-9, atol=1e-9)


def test_rounding_leaves_no_negative_m2(add_sums):
    into = empty()
    add_sums(into, 3.0, 0.0, 0.3, 0.3 * 0.3 / 3 - 1e-12)
    assert into[2] == 0
    add_sums(into, 3.0, 0.0, 0.3, math.nan)
    assert into[2].isnan()


def test_no_values_have_no_sums(add_sums):
    into = empty()
    add_sums(into, 0.0, 5.0, math.nan, math.nan)
    assert into.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("channels", [1, 5, 16])
def test_channels_side_by_side_are_merged_as_each_of_them_is(channels, add_sums, add_sums_of_lanes):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(3, 8, channels, dtype=torch.float64, generator=generator)
    x[1, 0, channels // 2] = math.nan
    beyond = torch.full((4, 3, channels), 7.0, dtype=torch.float64)
    together, alone = beyond[1], [empty() for _ in range(channels)]
    together.zero_()
    for piece in x:
        shift = piece[0].clone()
        sums = (shift, (piece - shift).sum(0), (piece - shift).square().sum(0))
        add_sums_of_lanes(together, 8.0, *sums)
        for into, *each in zip(alone, *(each.tolist() for each in sums), strict=True):
            add_sums(into, 8.0, *each)
    torch.testing.assert_close(together, torch.stack(alone, 1), rtol=1e-12, atol=1e-14, equal_nan=True)
    assert (beyond[[0, 2, 3]] == 7).all()
