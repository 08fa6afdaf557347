"""Shares of threads and parts of ghost batches: everything belongs to exactly one of them."""

from __future__ import annotations

import ctypes

import pytest

pytest.importorskip("numba")
from numba import njit
from tests.ops.cpu.kernels.programs import block_of, program

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.sharing import samples_of, share_of, wait_for_others


@njit
def _share(a, f):
    a[slot.X], a[slot.Y] = share_of(a, a[slot.ROWS])


@njit
def _samples(a, f):
    a[slot.X], a[slot.Y] = samples_of(a, a[slot.ROWS], a[slot.STRIP])


@njit
def _wait(a, f):
    a[slot.X] = 1
    wait_for_others(a)
    a[slot.X] = 2


@pytest.fixture(scope="module")
def share():
    return program(_share)


@pytest.fixture(scope="module")
def samples():
    return program(_samples)


@pytest.mark.parametrize(("items", "threads"), [(10, 1), (10, 3), (2, 4), (0, 2), (4096, 7)])
def test_items_are_shared_out_among_threads(items, threads, share):
    edges = []
    for thread in range(threads):
        block = block_of(THREAD=thread, THREADS=threads, ROWS=items)
        share(block)
        edges.append((block[slot.X], block[slot.Y]))
    covered = [item for first, last in edges for item in range(first, last)]
    assert covered == list(range(items))
    assert max(last - first for first, last in edges) - min(last - first for first, last in edges) <= 1


@pytest.mark.parametrize(
    ("number", "size", "groups", "parts"), [(11, 11, 1, 1), (11, 11, 1, 3), (11, 4, 2, 2), (12, 4, 3, 5)]
)
def test_samples_of_all_parts_of_all_groups_are_the_batch(number, size, groups, parts, samples):
    covered = []
    for group in range(groups):
        mine = []
        for part in range(parts):
            block = block_of(
                SAMPLES=number, GROUP_SIZE=size, GROUPS=groups, PARTS=parts, ROWS=group, STRIP=part
            )
            samples(block)
            mine += range(block[slot.X], block[slot.Y])
        assert len(mine) >= size  # the last group takes what remains
        covered += mine
    assert covered == list(range(number))


def test_a_thread_waits_where_there_are_others():
    wait, block = program(_wait), block_of()
    wait(block)
    assert block[slot.X] == 2
    seen = []
    barrier = ctypes.CFUNCTYPE(None)(lambda: seen.append(block[slot.X]))
    block[slot.BARRIER] = ctypes.cast(barrier, ctypes.c_void_p).value
    wait(block)
    assert (seen, block[slot.X]) == ([1], 2)
