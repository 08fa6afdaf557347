"""Another momentum for batch norms: which take it, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from tests.contracts.surgery import SurgeryContract
from tests.surgery.measured import ChannelsLast
from torch import nn

from normsmith import layers
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import set_momentum


class TestSetMomentum(SurgeryContract):
    partial = True

    def plan(self, model):
        return set_momentum(model, 0.03)


def test_layers_of_torch_and_normsmith_take_it():
    model = nn.Sequential(
        nn.BatchNorm1d(2), layers.BatchNorm1d(2), layers.BatchRenorm1d(2), nn.SyncBatchNorm(2)
    )
    set_momentum(model, 0.01).apply()
    assert [module.momentum for module in model] == [0.01] * 4


def test_it_decides_by_how_much_a_batch_moves_the_statistics():
    model = nn.Sequential(nn.BatchNorm1d(1))
    set_momentum(model, 0.25).apply()
    model(torch.tensor([[3.0], [5.0]]))
    assert model[0].running_mean.item() == pytest.approx(1.0)


def test_none_is_the_plain_average():
    model = nn.Sequential(nn.BatchNorm1d(1))
    set_momentum(model, None).apply()
    for value in (1.0, 3.0):
        model(torch.full((2, 1), value))
    assert model[0].running_mean.item() == pytest.approx(2.0)


def test_some_layers_only_and_those_that_have_it_already():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.3))
    plan = set_momentum(model, 0.3, only=["1", "2"])
    assert [change.path for change in plan.changes] == ["1"]
    assert plan.kept[0].text == "2: has momentum 0.3 already"
    plan.apply()
    plan.revert()
    assert [module.momentum for module in model] == [0.1, 0.1, 0.3]


def test_forwards_of_others_decide_what_momentum_means():
    plan = set_momentum(nn.Sequential(ChannelsLast(2)), 0.3)
    assert "forward of its own" in plan.refusals[0].reason


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_what_is_no_momentum_is_refused(momentum):
    with pytest.raises(InputError, match="from 0 to 1"):
        set_momentum(nn.BatchNorm1d(2), momentum)


def test_without_batch_norms_there_is_nothing_to_set():
    with pytest.raises(SurgeryError, match="expected batch norms"):
        set_momentum(nn.Linear(2, 2), 0.1)
