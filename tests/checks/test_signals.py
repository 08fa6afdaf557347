"""Signals of a few training steps, by hand and by measuring."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import mlp, vectors
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from normsmith import surgery
from normsmith.checks import Context, UnavailableError
from normsmith.checks.signals import STEPS, Signals, unbounded
from normsmith.layers import BatchRenorm1d
from normsmith.layers.schedules import constant


def signals(model: nn.Module, batches=None, **given) -> Signals:
    before = state_of(model)
    given = {"loss": F.cross_entropy, **given}
    result = Context(model, vectors(4) if batches is None else batches, **given).signals
    assert state_of(model) == before
    return result


def test_gradients_and_updates_are_those_of_the_steps():
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), vectors(1)
    result = signals(model, batches, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = batches[0]
    F.cross_entropy(model(x), y).backward()
    for signal, layer in zip(result.weights, (model[0], model[2]), strict=True):
        gradient, weight = layer.weight.grad, layer.weight.detach()
        assert len(signal.gradients) == len(signal.updates) == STEPS == result.steps
        assert signal.gradients[0] == pytest.approx(float(gradient.abs().mean()))
        assert signal.relative[0] == pytest.approx(float(gradient.norm() / weight.norm()))
        assert signal.updates[0] == pytest.approx(0.1 * signal.relative[0], rel=1e-4)
        assert (signal.group, signal.has_scale) == (0, True)


def test_frozen_weights_are_left_out_and_those_that_began_at_0_have_no_scale():
    model = mlp()
    model[0].requires_grad_(False)
    nn.init.zeros_(model[6].weight)
    result = signals(model, optimizer=torch.optim.SGD([model[6].weight], lr=0.1))
    assert [(signal.path, signal.has_scale, signal.group) for signal in result.weights] == [
        ("3", True, None),
        ("6", False, 0),
    ]
    assert result.weights[0].updates == []


def test_inputs_of_norms_are_those_of_one_batch():
    torch.manual_seed(0)
    model, batches = mlp(), vectors(3)
    rows = signals(model, batches).inputs
    assert list(rows) == ["1", "4"]
    assert len(rows["1"]) == STEPS + 1
    first = model[0](batches[0][0]).detach().double()
    mean, var = rows["1"][0]
    torch.testing.assert_close(mean, first.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(var, first.var(0), rtol=1e-4, atol=1e-6)


def test_renorm_is_measured_where_its_bounds_are_open():
    closed = signals(surgery.convert(mlp(), "renorm", total_steps=10**6).apply()).renorms
    assert [signal.clipped for signal in closed] == [[], []]
    tight = signals(surgery.convert(mlp(), "renorm", schedule=constant(1.01, 0.01)).apply()).renorms
    assert [signal.bounds for signal in tight] == [(1.01, 0.01)] * 2
    assert all(len(signal.clipped) == STEPS and min(signal.clipped) > 0.5 for signal in tight)


def test_a_recomputed_forward_is_measured_once():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = surgery.convert(mlp(), "renorm", schedule=constant(1.01, 0.01)).apply()

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    assert [len(signal.clipped) for signal in signals(Checkpointed()).renorms] == [STEPS, STEPS]


def test_unbounded_leaves_the_schedule():
    layer = BatchRenorm1d(2, schedule=constant(1.5, 0.5))
    x = torch.tensor([[0.0, 0.0], [8.0, 2.0]])
    r, d = unbounded(layer, x)
    assert r.tolist() == pytest.approx([4.0, 1.0], rel=1e-4)
    assert d.tolist() == pytest.approx([4.0, 1.0], rel=1e-4)
    assert layer.schedule == constant(1.5, 0.5)


def test_a_step_that_raises():
    with pytest.raises(UnavailableError, match="the training step raised ZeroDivisionError"):
        signals(mlp(), training_step=lambda *_: 1 / 0)
