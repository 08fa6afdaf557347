"""Recalibration leaves the model, its random numbers and its data loader as they were."""

from __future__ import annotations

import weakref

import pytest
import torch
from tests.surgery.measured import Short, assert_population, class_sorted, three_norms
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import InputError
from normsmith.surgery import recalibrate


class Counting(nn.Module):
    """Draws random numbers, keeps a buffer and an attribute that every forward changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.net, self.last = three_norms(), 0

    def forward(self, x):
        self.calls += 1
        self.last += 1
        return self.net(x + 0 * torch.randn(()))


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_measuring_changes_nothing(mode):
    network = Counting().train()
    network.net[1].eval()
    before = state_of(network)
    recalibrate(network, class_sorted(), mode=mode, dropout=True, loss=lambda output, _: output.mean())
    assert state_of(network) == before


@pytest.mark.parametrize("error", [RuntimeError("short"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_an_exception_leaves_the_model_as_it_was(mode, error):
    network = Counting().train()
    before = state_of(network)
    with pytest.raises(type(error)):
        recalibrate(network, Short(error), mode=mode)
    assert state_of(network) == before


def test_an_exception_in_a_later_pass_leaves_the_model_as_it_was():
    network, calls = three_norms().train(), []

    def forward(model, batch):
        calls.append(1)
        if len(calls) == 150:
            raise RuntimeError("late")
        return model(batch)

    before = state_of(network)
    with pytest.raises(RuntimeError, match="late"):
        recalibrate(network, class_sorted(), mode="exact", forward=forward)
    assert state_of(network) == before


def test_every_pass_draws_the_same_random_numbers():
    network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1), nn.BatchNorm1d(1))
    result = recalibrate(
        network,
        [torch.zeros(50, 1)] * 3,
        mode="exact",
        forward=lambda model, batch: model(batch + torch.randn_like(batch)),
    )
    assert result.gap <= 1e-6


def test_an_iterator_serves_one_pass():
    batches = class_sorted()
    layer = nn.BatchNorm1d(8)
    recalibrate(layer, iter(batches)).apply()
    assert_population(layer, torch.cat(batches))
    for options in ({"mode": "exact"}, {"gap": "all"}, {"loss": lambda output, _: output.mean()}):
        with pytest.raises(InputError, match="iterator"):
            recalibrate(layer, iter(batches), **options)


def test_a_data_loader_draws_the_same_order_at_every_pass():
    x = torch.randn(20, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=3, shuffle=True)
    before, seen = torch.get_rng_state(), []

    def forward(model, batch):
        seen.append(batch[0][0, 0].item())
        return model(batch[0])

    layer = nn.BatchNorm1d(3)
    recalibrate(layer, loader, gap="all", forward=forward).apply()
    assert torch.equal(torch.get_rng_state(), before)
    assert seen[:7] == seen[7:]
    assert_population(layer, x)


def test_no_output_waits_for_the_next_batch():
    outputs = []

    def forward(model, batch):
        assert all(output() is None for output in outputs), "the last batch's output is still there"
        output = model(batch)
        outputs.append(weakref.ref(output))
        return output

    recalibrate(
        three_norms(), list(torch.randn(3, 4, 8)), forward=forward, loss=lambda output, _: output.mean()
    )
    assert len(outputs) == 9


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_batches_to_which_the_model_writes_stay_and_are_measured_as_they_are(mode):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(x.mul_(2).add_(1))

    batches = class_sorted()
    before = [batch.clone() for batch in batches]
    model = Writing()
    recalibrate(model, batches, mode=mode).apply()
    assert all(map(torch.equal, batches, before))
    inputs = 2 * torch.cat(before) + 1
    torch.testing.assert_close(model.norm.running_mean, inputs.mean(0))
    torch.testing.assert_close(model.norm.running_var, inputs.var(0))
