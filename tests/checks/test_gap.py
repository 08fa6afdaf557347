"""The parts of a gap between training and evaluation."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import cnn, images, trained
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F

from normsmith.checks.comparison import Judge
from normsmith.checks.context import pair
from normsmith.checks.gap import MOST, gap_of
from normsmith.measure import measurable_layers

JUDGE = Judge(F.cross_entropy, None, True, 0.01)


def deep() -> nn.Sequential:
    """More norms than are looked at one by one, in four blocks."""
    blocks = [[nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()] * 1 for _ in range(16)]
    parts = [nn.Sequential(*(nn.Sequential(*block) for block in blocks[i : i + 4])) for i in range(0, 16, 4)]
    return nn.Sequential(*parts, nn.Linear(8, 2))


def test_each_step_is_what_one_layer_adds():
    torch.manual_seed(0)
    model, batches = trained(cnn(), images(8), 3), images(4)
    trained(model, batches, 20, rate=0.0)  # statistics of the weights as they are
    model[1].running_mean.add_(3)
    before = state_of(model)
    gap = gap_of(model, batches, pair, measurable_layers(model).layers, JUDGE)
    assert state_of(model) == before
    with torch.no_grad():
        x, y = batches[0]
        evaluation = F.cross_entropy(model.eval()(x), y)
    assert gap.evaluation.loss[0] == pytest.approx(float(evaluation))
    assert [paths for paths, _ in gap.steps] == [("1",), ("4",)]
    assert gap.worst[0] == ("1",)
    total = sum(step.loss[0] for _, step in gap.steps)
    assert total == pytest.approx(gap.evaluation.loss[0] - gap.batch.loss[0], abs=1e-6)
    assert sum(back.loss[0] for back in gap.reversed) == pytest.approx(total, abs=1e-6)
    assert gap.alone[0] == gap.steps[0][1]  # nothing came before it
    assert gap.training.loss[0] == pytest.approx(gap.batch.loss[0])  # there is no dropout


def test_of_many_layers_the_worst_block_is_taken_apart():
    torch.manual_seed(0)
    model, batches = deep(), [(torch.randn(32, 8), torch.randint(2, (32,))) for _ in range(2)]
    gap = gap_of(model, batches, pair, measurable_layers(model).layers, JUDGE)
    sizes = [len(paths) for paths, _ in gap.steps]
    assert sum(sizes) == 16 > MOST
    assert sorted(sizes) == [1, 1, 1, 1, 4, 4, 4]
    total = sum(step.loss[1] for _, step in gap.steps)
    assert total == pytest.approx(gap.evaluation.loss[1] - gap.batch.loss[1], abs=1e-6)


def test_a_model_that_returns_something_else_in_training_has_no_share_of_dropout():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 2)

        def forward(self, x):
            out = self.head(self.norm(x))
            return {"loss": out.mean()} if self.training else out

    batches = [(torch.randn(16, 8), torch.randint(2, (16,)))]
    model = Detector()
    gap = gap_of(model, batches, pair, measurable_layers(model).layers, JUDGE)
    assert gap.training is None
    assert gap.to_dict()["dropout_off"] is None
    assert gap.to_dict()["steps"][0]["in_order"]["loss"]["spread"] is None
