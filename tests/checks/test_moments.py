"""What reached each norm, call by call, as training would see it."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import cnn, images, mlp, vectors
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.forward import call
from normsmith.checks.finding import UnavailableError
from normsmith.checks.moments import moments_of_calls
from normsmith.measure import measurable_layers
from normsmith.surgery import recalibrate


def measured(model, batches, forward=call):
    return moments_of_calls(model, measurable_layers(model).layers, batches, forward)


def test_the_first_norm_gets_what_a_hook_sees():
    model, batches = cnn(), images(3)
    found = measured(model, batches)[model[1]]
    for (x, _), one in zip(batches, found.calls, strict=True):
        seen = model[0](x).detach().double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(one.mean, seen.mean(1), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(one.var, seen.var(1), atol=1e-6, rtol=1e-4)
        assert one.count == seen.shape[1]


def test_they_come_to_what_recalibration_writes():
    model, batches = mlp(), vectors(5)
    found = measured(model, batches)
    after = {layer.path: layer.after for layer in recalibrate(model, batches).layers}
    for layer in found.values():
        torch.testing.assert_close(layer.statistics.mean, after[layer.layer.path]["running_mean"])
        torch.testing.assert_close(layer.statistics.var, after[layer.layer.path]["running_var"])


def test_dropout_drops_as_in_training():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(8)).eval()
    (found,) = measured(model, [torch.ones(400, 8)]).values()
    assert found.within.mean() > 0.5


def test_within_is_what_a_running_variance_averages():
    model = nn.Sequential(nn.BatchNorm1d(1))
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [12.0]])]
    (found,) = measured(model, batches).values()
    assert found.within.item() == 2.0
    assert found.mean.item() == 6.0
    assert found.statistics.var.item() > 30


def test_a_batch_of_one_value_has_a_mean_and_no_variance():
    model = nn.Sequential(nn.BatchNorm1d(2))
    (found,) = measured(model, [torch.randn(4, 2), torch.ones(1, 2)]).values()
    assert found.calls[1].mean.tolist() == [1, 1]
    assert found.calls[1].var.isnan().all()
    assert found.within.isfinite().all()
    assert found.statistics.var.isfinite().all()


def test_calls_are_numbered_within_their_batch():
    norm = nn.BatchNorm1d(8)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    (found,) = measured(model, vectors(2)).values()
    assert [(one.batch, one.number) for one in found.calls] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_modes_statistics_and_hooks_are_as_before():
    model = cnn().eval()
    model[3].train()
    before = state_of(model)
    measured(model, images(2))
    assert state_of(model) == before


def test_a_model_that_raises_says_in_which_batch():
    def forward(model, batch):
        forward.batches += 1
        if forward.batches == 3:
            raise RuntimeError("out of order")
        return model(batch[0])

    forward.batches = 0
    model = mlp()
    before = state_of(model)
    with pytest.raises(UnavailableError, match="in batch 3: RuntimeError: out of order"):
        measured(model, vectors(4), forward)
    assert state_of(model) == before


def test_a_batch_that_the_model_does_not_take_asks_for_a_forward():
    with pytest.raises(UnavailableError, match=r"batch 1: .*; give forward="):
        measured(mlp(), [{"x": torch.zeros(4, 8)}])


def test_without_norms_there_is_nothing_to_measure():
    with pytest.raises(UnavailableError, match="no batch norm"):
        measured(nn.Linear(8, 2), vectors(1))
