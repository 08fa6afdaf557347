"""What kernels write, and where: on the CPU, within their outputs, and no more of it after a thousand calls."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.ops.cpu.cases import DTYPES, EACH_OPTION, everything, make

from normsmith.layers import BatchNorm2d
from normsmith.ops._check import make_call
from normsmith.ops.cpu import calls, memory, threads
from normsmith.ops.cpu.backend import Numba


def test_memory_is_on_the_cpu_whatever_the_default_device():
    case = make((33, 5), option="mask, residual, relu")
    want = everything(*case)
    calls._WORKSPACE.blocks.clear()
    calls._WORKSPACE.partial = None
    with torch.device("meta"):
        found = everything(*case)
    for one, other in zip(found, want, strict=True):
        assert torch.equal(one, other)


class Guarded:
    """Gives out memory in the middle of more, and sees whether somebody wrote beside it."""

    _AROUND = 4096

    def __init__(self, monkeypatch):
        self._blocks = []
        self._empty = torch.empty
        monkeypatch.setattr(memory, "like", self.like)
        monkeypatch.setattr(torch, "empty", self.empty)

    def empty(self, *shape, dtype=torch.float32, device="cpu"):
        size = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        return self._block(size.numel(), dtype).view(size)

    def like(self, x):
        return self._block(x.numel(), x.dtype).as_strided(x.shape, x.stride())

    def _block(self, number, dtype):
        size = number * dtype.itemsize
        block = self._empty(self._AROUND + size + self._AROUND, dtype=torch.uint8)
        block.fill_(0xA5)
        inner = block[self._AROUND : self._AROUND + size]
        if dtype.is_floating_point:
            inner.view(dtype).fill_(torch.nan)
        self._blocks.append(block)
        return inner.view(dtype)

    def check(self):
        assert len(self._blocks) >= 4
        for block in self._blocks:
            assert (block[: self._AROUND] == 0xA5).all(), "written before the beginning"
            assert (block[-self._AROUND :] == 0xA5).all(), "written past the end"


@pytest.mark.parametrize("option", EACH_OPTION)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_is_written_and_nothing_beside(dtype, option, monkeypatch):
    """Of outputs, statistics, masks and partial sums; one thread and two."""
    shapes = [(37, 13), (5, 3, 233), (7, 5, 15, 17), (11, 37, 3, 3), (3, 1031), (23, 3, 41, 41)]
    layouts = (torch.contiguous_format, torch.channels_last)
    for shape, layout in [(s, m) for s in shapes for m in layouts if m == layouts[0] or len(s) == 4]:
        case = make(shape, dtype, layout, option)
        with monkeypatch.context() as patch:
            patch.setattr(calls, "_ROOM", 0)
            guarded = Guarded(patch)
            patch.setattr(threads, "SERIAL_BELOW", 1)
            patch.setattr(torch, "get_num_threads", lambda: 2)
            found = everything(*case)
        guarded.check()
        assert all(tensor.isfinite().all() for tensor in found)


def test_a_thousand_calls_need_no_more():
    def train(number):
        torch.manual_seed(0)
        for _ in range(number):
            rows, channels, side = torch.randint(2, 30, (3,)).tolist()
            layer = BatchNorm2d(channels)
            x = torch.randn(rows, channels, side, side, requires_grad=True)
            layer(x).sum().backward()
        assert len(calls._WORKSPACE.blocks) <= calls._BLOCKS
        calls._WORKSPACE.blocks.clear()  # how many there are now is chance
        gc.collect()
        return resident(), len(gc.get_objects())

    train(1000)
    bytes_before, objects_before = train(10)
    bytes_after, objects_after = train(1000)
    assert bytes_after - bytes_before < 16 << 20  # an output each would be 100 times as much
    assert objects_after - objects_before < 100


@pytest.mark.full
def test_more_bytes_than_32_bits_count():
    """By pattern: the statistics of a batch that repeats itself are those of its part."""
    part = torch.randn(2, 16, 64, 64).bfloat16()
    times = 2**31 // part.nbytes + 1
    for layout in (torch.contiguous_format, torch.channels_last):
        piece = part.contiguous(memory_format=layout)
        x = piece.repeat(times, 1, 1, 1).contiguous(memory_format=layout)
        assert x.nbytes > 2**31
        row, call = Numba(), make_call(x)
        y, kept, _ = row.forward(x, None, None, None, None, call)
        want, small, _ = row.forward(piece, None, None, None, None, call)
        off = y.unflatten(0, (times, 2)) - want
        assert off.abs().amax() <= 0.04  # the last bit of numbers up to 8
        assert off.count_nonzero() <= 1e-3 * off.numel()
        shifted = piece.roll(1, -1)
        g = shifted.repeat(times, 1, 1, 1).contiguous(memory_format=layout)
        dx, _, _ = row.backward(g, x, None, kept, call, True)
        right, _, _ = row.backward(shifted, piece, None, small, call, True)
        off = (dx.unflatten(0, (times, 2)) - right).abs().amax()
        assert off <= 0.01 * right.abs().amax()
        del x, y, g, dx


def resident() -> int:
    """Bytes of memory that this process holds."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the system does not say what a process holds")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_outputs_lie_as_their_inputs_do(layout):
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64).to(memory_format=layout)
    y = memory.like(x)
    assert (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), x.dtype)
    assert y.data_ptr() != x.data_ptr()


def test_large_outputs_ask_for_huge_pages(monkeypatch):
    advised = []
    monkeypatch.setattr(memory, "_advise", lambda: lambda address, size: advised.append((address, size)))
    memory.like(torch.empty(memory.HUGE - 1, dtype=torch.uint8))
    assert advised == []
    y = memory.like(torch.empty(memory.HUGE, dtype=torch.uint8))
    assert advised == [(y.data_ptr(), memory.HUGE)]


@pytest.mark.parametrize("library", [OSError("no such library"), object()], ids=["no library", "no madvise"])
def test_systems_without_huge_pages_do_without(monkeypatch, library):
    def load(*_, **__):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    memory._advise.cache_clear()
    try:
        assert memory._advise()(4096, memory.LARGE) is None
    finally:
        memory._advise.cache_clear()


def test_advice_is_given_for_whole_pages(monkeypatch):
    given = []

    def madvise(*arguments):
        given.append(arguments)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(madvise=madvise))
    memory._advise.cache_clear()
    try:
        memory._advise()(4096 * 7 + 16, 4096 * 3)
    finally:
        memory._advise.cache_clear()
    assert given == [(4096 * 8, 4096 * 2, 14)]


def test_workspace_of_inference_mode_can_be_written_to_later():
    with torch.inference_mode():
        workspace = memory.lasting(3, dtype=torch.float64)
    assert not workspace.is_inference()
    workspace.zero_()
    assert workspace.device.type == "cpu"
