"""Prepared calls of the kernels: blocks that are free, kept, and filled for the threads that there are."""

from __future__ import annotations

import torch

from normsmith.ops.call import Call, Update
from normsmith.ops.cpu import prepared, threads
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.prepared import Vectors, prepare
from normsmith.ops.resolve import Renorm, Running


def vectors(channels=3):
    running = Running(torch.zeros(channels), torch.ones(channels), None, torch.tensor(0))
    return Vectors(torch.ones(channels), torch.zeros(channels), running)


def test_a_block_belongs_to_one_call_at_a_time(monkeypatch):
    call = prepare(torch.empty(6, 3), vectors(), False, Call(), None)
    x, inner, like = torch.randn(6, 3), torch.randn(6, 3), prepared.memory.like
    found = []

    def interrupted(batch):
        if batch is x:
            found.append(call.forward(inner, None, None, True))
        return like(batch)

    monkeypatch.setattr(prepared.memory, "like", interrupted)
    found.append(call.forward(x, None, None, True))
    for batch, (y, _, _) in zip((inner, x), found, strict=True):
        torch.testing.assert_close(y, torch.nn.functional.batch_norm(batch, None, None, training=True))
    assert len(call._forwards) == 2


def test_statistics_are_kept_only_where_they_are_asked_for():
    call, x = prepare(torch.empty(6, 3), vectors(), False, Call(), None), torch.randn(6, 3)
    kept = [call.forward(x, None, None, True)[1] for _ in range(2)]
    assert kept[0].data_ptr() != kept[1].data_ptr()
    assert call.forward(x, None, None, False)[1] is call.forward(x, None, None, False)[1]


def test_bounds_are_those_of_the_step():
    running = Running(torch.full((3,), 5.0), torch.ones(3))
    call = prepare(
        torch.empty(6, 3), Vectors(None, None, running), False, Call(renorm=Renorm(1.0, 0.0)), None
    )
    x = torch.randn(6, 3)
    plain, _, _ = call.forward(x, None, Renorm(1.0, 0.0), False)
    moved, _, _ = call.forward(x, None, Renorm(torch.tensor(1.0), 2.0), False)
    torch.testing.assert_close(moved, plain - 2)
    assert call.call.renorm == Renorm(1.0, 0.0)


def test_versions_count_updates():
    held = vectors()
    call = prepare(torch.empty(6, 3), held, False, Call(), Update(0.1, True))
    call.forward(torch.randn(6, 3), None, None, False)
    assert [buffer._version for buffer in held.running if buffer is not None] == [1, 1, 1]
    assert held.running.batches == 1
    prepare(torch.empty(6, 3), held, False, Call(), None).forward(torch.randn(6, 3), None, None, False)
    assert held.running.mean._version == 1


def test_work_is_shared_out_anew_when_the_threads_change(two_threads, monkeypatch):
    x = torch.randn(1000, 200)
    call = prepare(x, vectors(200), False, Call(), None)
    first = call.forward(x, None, None, False)[0]
    block = call._forwards[0]
    assert block.q[slot.PARTS] == 2
    monkeypatch.setattr(threads, "_forked", True)
    second = call.forward(x, None, None, False)[0]
    assert block.q[slot.PARTS] == 1
    torch.testing.assert_close(first, second)


def test_gradients_of_a_residual():
    call = prepare(torch.empty(6, 3), vectors(), True, Call(), None)
    x, g = torch.randn(6, 3), torch.randn(6, 3)
    _, statistics, bits = call.forward(x, torch.randn(6, 3), None, True)
    assert bits is None
    assert call.backward(g, x, statistics, bits, True)[1] is g
    assert call.backward(g, x, statistics, bits, False)[:2] == (None, None)
