"""Prepared calls: several at once, their gradients, and unusual situations, in which no call is prepared."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.layers.prepared_calls import meet, same, taken, unprepared
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from normsmith.layers import (
    BatchNorm1d,
    BatchNormAct1d,
    accumulate,
    use_mask,
    without_a_trace,
)
from normsmith.ops.cpu import prepared

__all__ = ["taken"]


# Several calls at once.


def test_two_forwards_before_one_backward(taken):
    layer = BatchNorm1d(5)
    twin = unprepared(layer)
    x, g = torch.randn(4, 6, 5), torch.randn(6, 5)
    found = []
    for each in (layer, twin):
        inputs = [row.clone().requires_grad_() for row in x]
        outputs = [each(row) for row in inputs]
        each.weight.data.copy_(each.weight.data)
        found.append(torch.autograd.grad(outputs, [*inputs, each.weight, each.bias], [g] * 4))
    assert same(*found)
    assert len(taken) == 3


def test_threads_share_a_layer(taken):
    layer = BatchNorm1d(300).eval()
    batches = [torch.randn(500, 300) for _ in range(3)]
    expected = [unprepared(layer)(x) for x in batches]
    meet(layer, batches[0])
    taken.clear()
    wrong = []

    def use(x, want):
        for _ in range(40):
            with torch.no_grad():
                if not torch.equal(layer(x), want):
                    wrong.append(x)

    threads = [threading.Thread(target=use, args=each) for each in zip(batches, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(taken) == 120


def test_a_call_within_a_call(monkeypatch, taken):
    layer, x, other = BatchNorm1d(5).eval(), torch.randn(6, 5), torch.randn(6, 5)
    expected, inner, empty, calls = layer(x), layer(other), prepared.empty_on_cpu, iter([True])

    def interrupted(*place):
        y = empty(*place)
        if next(calls, False):
            assert torch.equal(layer(other), inner)
        return y

    monkeypatch.setattr(prepared, "empty_on_cpu", interrupted)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
    assert len(taken) == 3


def test_an_error_within_a_call_leaves_the_layer_as_it_was(monkeypatch, taken):
    layer, x = BatchNorm1d(5).eval(), torch.randn(6, 5)
    meet(layer, x)
    with monkeypatch.context() as patched:
        patched.setattr(prepared, "empty_on_cpu", lambda *place: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            layer(x)
    assert torch.equal(layer(x), unprepared(layer)(x))


# Gradients.


def test_gradients_of_gradients(taken):
    layer = BatchNormAct1d(5)
    twin = unprepared(layer)
    x, g = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    meet(layer, x), meet(twin, x)
    found = []
    for each in (layer, twin):
        inputs = [x.detach().requires_grad_(), *each.parameters()]
        first = torch.autograd.grad(each(inputs[0]), inputs, g, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), inputs[:2])
        found.append([*first, *second])
    assert same(*found)
    assert len(taken) == 2


def test_batched_gradients_and_retained_graphs(taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5, requires_grad=True)
    meet(layer, x)
    y, g = layer(x), torch.randn(2, 6, 5)
    batched = torch.autograd.grad(y, x, g, is_grads_batched=True, retain_graph=True)[0]
    single = [torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in g]
    assert torch.allclose(batched, torch.stack(single), atol=1e-5)
    assert len(taken) == 2


@pytest.mark.parametrize("wanted", [("x",), ("weight",), ("bias",), ("weight", "bias")])
def test_only_the_gradients_that_are_wanted(wanted, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    twin = unprepared(layer)
    g, found = torch.randn(6, 5).t().contiguous().t(), []
    for each in (layer, twin):
        inputs = {"x": x.clone(), "weight": each.weight, "bias": each.bias}
        for name, value in inputs.items():
            value.requires_grad_(name in wanted)
        meet(each, inputs["x"])
        found.append(torch.autograd.grad(each(inputs["x"]), [inputs[name] for name in wanted], g))
    assert same(*found)
    assert len(taken) == 2


@pytest.mark.parametrize("changed", ["x", "weight", "bias"])
def test_what_a_backward_reads_may_not_change_before_it(changed, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5, requires_grad=True).clone()
    meet(layer, x)
    y = layer(x)
    assert len(taken) == 2
    with torch.no_grad():
        {"x": x, "weight": layer.weight, "bias": layer.bias}[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Unusual situations.


class Seen(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def within(context):
    def call(layer, x):
        with context(layer):
            return layer(x)

    return call


MASK = torch.tensor([True] * 5 + [False])
UNUSUAL = {
    "mask": lambda layer, x: layer(x, mask=MASK),
    "weights": lambda layer, x: layer(x, sample_weight=torch.ones(6)),
    "context": within(lambda layer: use_mask(layer, MASK)),
    "accumulate": within(accumulate),
    "hooks": within(lambda layer: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)),
    "dispatch": within(lambda layer: FlopCounterMode(display=False)),
    "function": within(lambda layer: Seen()),
    "dual": within(lambda layer: torch.autograd.forward_ad.dual_level()),
    "subclass": lambda layer, x: layer(x.as_subclass(Subclass)),
    "checkpoint": lambda layer, x: checkpoint(layer, x.requires_grad_(), use_reentrant=False),
    "reentrant": lambda layer, x: checkpoint(layer, x.requires_grad_(), use_reentrant=True),
    "vmap": lambda layer, x: torch.func.vmap(layer.eval())(x[None]),
    "grad": lambda layer, x: torch.func.grad(lambda x: layer.eval()(x).sum())(x),
    "negative bit": lambda layer, x: layer(torch.complex(x, x).conj().imag),
    "zeros without memory": lambda layer, x: layer(torch._efficientzerotensor(x.shape)),
    "trace": lambda layer, x: torch.jit.trace(layer.eval(), x, check_trace=False),
}


@pytest.mark.parametrize("situation", UNUSUAL)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_unusual_situations_take_the_usual_path(situation, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    meet(layer, x)
    meet(layer.eval(), x)
    layer.train()
    before = len(taken)
    for _ in range(3):
        UNUSUAL[situation](layer, x.clone())
    assert len(taken) == before


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_forward_does_not_count(reentrant, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5, requires_grad=True)
    meet(layer, x)
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    assert layer.num_batches_tracked == 3
    assert len(taken) == 1


def test_a_backend_that_is_asked_for_serves(monkeypatch, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    meet(layer, x)
    monkeypatch.setenv("NORMSMITH_BACKEND", "reference")
    assert torch.allclose(layer(x).mean(0), torch.zeros(5), atol=1e-6)
    assert len(taken) == 1
    monkeypatch.delenv("NORMSMITH_BACKEND")
    layer(x)
    assert len(taken) == 2


def test_a_tensor_that_escaped_from_a_transform():
    layer, escaped = BatchNorm1d(5), []
    torch.func.grad(lambda x: (escaped.append(x), x.sum())[1])(torch.randn(6, 5))
    for _ in range(3):
        assert layer(escaped[0]).shape == (6, 5)


def test_forwards_without_a_trace_leave_none(taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    meet(layer, x)
    before = [buffer.clone() for buffer in layer.buffers()]
    with without_a_trace(layer):
        meet(layer, x, 3)
    assert same(layer.buffers(), before)
    layer(x)
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("context", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_contexts_that_change_nothing(context, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    twin = unprepared(layer)
    meet(layer, x), meet(twin, x)
    layer.eval(), twin.eval()
    for _ in range(3):
        with context():
            y, expected = layer(x), twin(x)
        assert torch.equal(y, expected)
        assert (y.dtype, y.is_inference()) == (expected.dtype, expected.is_inference())
    assert len(taken) == 3
    layer.train()(x.requires_grad_()).sum().backward()
    twin.train()(x.requires_grad_()).sum().backward()
    assert same(layer.buffers(), twin.buffers())
