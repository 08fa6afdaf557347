"""The same batches twice, and whether the difference counts."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from tests.checks.networks import mlp, trained, vectors
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F

from normsmith import surgery
from normsmith.checks import comparison
from normsmith.checks.comparison import Comparison, Judge, normalising_by, normalising_by_batches
from normsmith.checks.context import pair
from normsmith.checks.evaluations import Evaluations
from normsmith.checks.finding import UnavailableError
from normsmith.measure import Statistics, measurable_layers


def compared(model, batches, changed, judge):
    return comparison.compared(Evaluations(model, batches, pair, []), batches, changed, judge)


NO_JUDGE = Judge(None, None, True, 0.01)


def pairs(*differences, then=1.0):
    return tuple((then + difference, then) for difference in differences)


@pytest.mark.parametrize(
    ("losses", "moved", "costs"),
    [
        (pairs(0.2, 0.3, 0.25), 0.5, True),
        (pairs(0.04, 0.04, 0.04), 0.5, False),  # too little
        (pairs(1.0, -0.8, 0.3), 0.5, False),  # within the noise
        (pairs(-0.3, -0.3), 0.5, False),  # better as it is
        (pairs(0.1, 9.0, 0.1, 0.2, 0.1, 0.2), 0.5, True),  # noisy, and worse every time
        (pairs(-0.1, 9.0, 0.1, 0.2, 0.1, 0.2), 0.5, False),
        (pairs(0.02, 0.025, 0.022, then=0.01), 0.3, True),  # another scale, and outputs that moved
        (pairs(0.0026, 0.0025, then=0.0008), 0.05, False),  # tripled, and means nothing
        (((float("nan"), 0.1), (0.2, 0.1)), 0.5, True),
        (((0.3, float("nan")), (0.2, float("nan"))), 0.5, False),
    ],
)
def test_losses(losses, moved, costs):
    assert (Comparison(losses, (), moved, len(losses)).cost is not None) is costs


@pytest.mark.parametrize(("higher", "costs"), [(True, False), (False, True)])
def test_metrics_have_a_direction(higher, costs):
    comparison = Comparison((), ((0.9, 0.7), (0.8, 0.6)), 0.5, 2, higher_is_better=higher)
    assert (comparison.cost is not None) is costs
    if costs:
        assert comparison.cost == "metric 0.85 instead of 0.65 on 2 batches"


def test_a_metric_decides_where_the_loss_does_not():
    better = ((0.5, 0.9), (0.55, 0.9), (0.6, 0.9))
    assert Comparison(pairs(0.01, 0.01), better, 0.5, 2).cost is not None
    assert Comparison(pairs(0.01, 0.01), ((0.895, 0.9),) * 2, 0.5, 2).cost is None
    assert Comparison(pairs(-0.01, -0.01), better, 0.5, 2).cost is None  # the loss says the opposite


def test_outputs_decide_where_nothing_else_does():
    assert Comparison((), (), 0.5, 3).cost == "outputs are off by 50 % of their spread on 3 batches"
    assert Comparison((), (), 0.1, 3).cost is None
    assert Comparison((), ((0.9, 0.9),), 0.5, 1).cost is None


def test_a_comparison_runs_both_and_leaves_the_model():
    model, batches = trained(mlp(), vectors(4)), vectors(3)
    layers = measurable_layers(model).layers
    other = [Statistics(layer.statistics().mean + 1, layer.statistics().var) for layer in layers]
    before = state_of(model)
    found = compared(
        model, batches, lambda: normalising_by(layers, other), Judge(F.cross_entropy, None, True, 0.01)
    )
    assert state_of(model) == before
    with torch.no_grad():
        expected = [float(F.cross_entropy(model.eval()(x), y)) for x, y in batches]
    assert [now for now, _ in found.losses] == pytest.approx(expected)
    assert found.moved > 0.1


def test_random_forwards_draw_the_same_twice():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    @contextmanager
    def nothing():
        yield

    assert compared(Noisy(), vectors(2), nothing, NO_JUDGE).moved == 0.0


def test_without_targets_there_is_no_loss():
    @contextmanager
    def nothing():
        yield

    judge = Judge(F.cross_entropy, F.cross_entropy, True, 0.01)
    found = compared(mlp(), [x for x, _ in vectors(2)], nothing, judge)
    assert found.losses == found.metrics == ()


def test_a_loss_that_raises_is_named():
    @contextmanager
    def nothing():
        yield

    def loss(output, target):
        raise ValueError("shapes")

    with pytest.raises(UnavailableError, match="the loss raised ValueError: shapes"):
        compared(mlp(), vectors(1), nothing, Judge(loss, None, True, 0.01))


@pytest.mark.parametrize("kind", [None, "ghost", "batch"])
def test_normalising_by_batches_is_training_and_moves_nothing(kind):
    model, (x, _) = trained(mlp(), vectors(4)), vectors(1)[0]
    options = {"ghost_batch_size": 8} if kind == "ghost" else {}
    if kind is not None:
        model = surgery.convert(model, kind, **options).apply()
    model.eval()
    before = state_of(model)
    with torch.no_grad(), normalising_by_batches(measurable_layers(model).layers):
        inside = model(x)
    assert state_of(model) == before
    torch.testing.assert_close(inside, deepcopy(model).train()(x))
