"""Prepared calls of the kernels: blocks that are free, kept, and filled for the threads that there are."""

from __future__ import annotations

import pytest
import torch

from normsmith.layers import BatchNorm1d
from normsmith.ops.call import Call, Update
from normsmith.ops.cpu import prepared, threads
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.prepared import prepare
from normsmith.ops.resolve import Renorm, Running


def running_of(channels=3):
    return Running(torch.zeros(channels), torch.ones(channels), None, torch.tensor(0))


def prepared_for(x, added=False, call=Call(), update=None, running=None):  # noqa: B008 — a tuple
    weight, bias = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
    return prepare(x, weight, bias, running, added, call, update)


def forward(call, x, residual=None, running=None, renorm=None, keep=False):
    weight, bias = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
    return call.forward(x, weight, bias, residual, running, renorm, keep)


def test_a_block_belongs_to_one_call_at_a_time(monkeypatch):
    call = prepared_for(torch.empty(6, 3))
    x, inner, empty, calls = torch.randn(6, 3), torch.randn(6, 3), prepared.empty_on_cpu, iter([True])
    found = []

    def interrupted(*place):
        if next(calls, False):
            found.append(forward(call, inner, keep=True))
        return empty(*place)

    monkeypatch.setattr(prepared, "empty_on_cpu", interrupted)
    found.append(forward(call, x, keep=True))
    for batch, (y, _, _) in zip((inner, x), found, strict=True):
        torch.testing.assert_close(y, torch.nn.functional.batch_norm(batch, None, None, training=True))
    assert len(call.forwards) == 2


def test_statistics_are_kept_only_where_they_are_asked_for():
    call, x = prepared_for(torch.empty(6, 3)), torch.randn(6, 3)
    kept = [forward(call, x, keep=True)[1] for _ in range(2)]
    assert kept[0].data_ptr() != kept[1].data_ptr()
    assert forward(call, x)[1] is forward(call, x)[1]


def test_bounds_are_those_of_the_step():
    running, x = Running(torch.full((3,), 5.0), torch.ones(3)), torch.randn(6, 3)
    call = prepared_for(x, call=Call(renorm=Renorm(1.0, 0.0)), running=running)
    plain, _, _ = forward(call, x, running=running, renorm=Renorm(1.0, 0.0))
    moved, _, _ = forward(call, x, running=running, renorm=Renorm(torch.tensor(1.0), 2.0))
    torch.testing.assert_close(moved, plain - 2)
    assert call.call.renorm == Renorm(1.0, 0.0)


def test_vectors_are_those_of_the_step():
    x = torch.randn(6, 3)
    call = prepared_for(x, update=Update(1.0, True), running=running_of())
    for _ in range(2):
        weight, bias, running = torch.randn(3), torch.randn(3), running_of()
        y, _, _ = call.forward(x, weight, bias, None, running, None, False)
        expected = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(running.mean, x.mean(0))
        torch.testing.assert_close(running.var, x.var(0))


def test_versions_count_updates():
    x, running = torch.randn(6, 3), running_of()
    forward(prepared_for(x, update=Update(0.1, True), running=running), x, running=running)
    assert [buffer._version for buffer in running if buffer is not None] == [1, 1, 1]
    assert running.batches == 1
    forward(prepared_for(x, running=running), x, running=running)
    assert running.mean._version == 1


def test_work_is_shared_out_anew_when_the_threads_change(two_threads, monkeypatch):
    x = torch.randn(1000, 200)
    call = prepared_for(x)
    first = forward(call, x)[0]
    block = call.forwards[0]
    assert block.q[slot.PARTS] == 2
    monkeypatch.setattr(threads, "_forked", True)
    second = forward(call, x)[0]
    assert block.q[slot.PARTS] == 1
    torch.testing.assert_close(first, second)


def test_large_outputs_are_asked_for_in_huge_pages(monkeypatch):
    asked = []
    monkeypatch.setattr(prepared.memory, "HUGE", 4 * 18)
    monkeypatch.setattr(prepared.memory, "ask_for_huge_pages", asked.append)
    for rows, expected in ((5, 0), (6, 1)):
        asked.clear()
        x = torch.randn(rows, 3)
        forward(prepared_for(x), x)
        assert len(asked) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.double(),
        lambda g: g.t().contiguous().t(),
        lambda g: torch.stack([g, g], 2)[..., 0],
        lambda g: torch.complex(torch.zeros(6, 3), -g).conj().imag,
    ],
)
def test_gradients_are_brought_into_the_form_of_the_batch(change):
    x, g = torch.randn(6, 3), torch.randn(6, 3)
    call = prepared_for(x)
    _, statistics, _ = forward(call, x, keep=True)
    expected = call.backward(g, x, statistics, None, True)[0]
    for gradient, batch in ((change(g), x), (g, x), (change(g), x), (g, change(x)), (g, x)):
        assert call.fits(gradient, batch) <= (gradient is g and batch is x)
        fitted = call.fitted(gradient, batch)
        assert torch.equal(call.backward(*fitted, statistics, None, True)[0], expected)
    assert call.fits(g, x)


def test_a_gradient_of_zeros_may_have_no_memory():
    layer, x = BatchNorm1d(3), torch.randn(6, 3, requires_grad=True)
    for _ in range(3):  # unprepared, prepared, and prepared again
        y = layer(x)
        found = torch.autograd.grad(y, (x, *layer.parameters()), torch._efficientzerotensor(y.shape))
        assert all(torch.equal(each, torch.zeros_like(each)) for each in found)


def test_gradients_of_a_residual():
    call = prepared_for(torch.empty(6, 3), added=True)
    x, g = torch.randn(6, 3), torch.randn(6, 3)
    _, statistics, bits = forward(call, x, residual=torch.randn(6, 3), keep=True)
    assert bits is None
    assert call.backward(g, x, statistics, bits, True)[1] is g
    assert call.backward(g, x, statistics, bits, False)[:2] == (None, None)
