"""Whether a network has learned, and what another learning rate would bring."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import mlp, trained, vectors
from tests.surgery.states import state_of
from torch.nn import functional as F

from normsmith.checks import Context, UnavailableError
from normsmith.checks.learning import Losses, Tried


def context(model=None, **given) -> Context:
    return Context(mlp() if model is None else model, vectors(), **{"loss": F.cross_entropy, **given})


def test_learning_shows_against_the_targets_of_others():
    torch.manual_seed(0)
    new, old = mlp(), trained(mlp(), vectors())
    before = state_of(old)
    assert context(new).has_learned is False
    assert context(old).has_learned is True
    assert state_of(old) == before
    x, y = vectors()[0]
    expected = float(F.cross_entropy(old(x), y).detach())
    assert context(old).losses_in_training.own[0] == pytest.approx(expected, rel=1e-4)


def test_without_a_loss_or_targets_nobody_can_tell():
    assert context(loss=None, training_step=lambda *_: None).has_learned is None
    alone = Context(mlp(), [x for x, _ in vectors(4)], loss=lambda output, _: output.mean())
    assert alone.has_learned is None
    with pytest.raises(UnavailableError, match="targets"):
        _ = alone.losses_in_training


def test_other_rates_are_tried_on_copies():
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-7)
    before, given = state_of(model), context(model, optimizer=optimizer)
    better, same = given.with_other_rates({0: 1e4}), given.with_other_rates({0: 1.0})
    assert "after 16 steps" in better.cost
    assert same.cost is None
    assert same.as_is == better.as_is == same.otherwise
    assert given.with_other_rates({1: 1e4}).otherwise == better.as_is  # another group's rate
    assert state_of(model) == before
    assert optimizer.param_groups[0]["lr"] == 1e-7


def test_a_loss_that_is_no_number_costs():
    good, bad = Losses((0.5, 0.6), (0.7, 0.7)), Losses((torch.nan, torch.nan), (torch.nan, torch.nan))
    assert Tried(bad, good, 0.7).cost
    assert Tried(good, bad, 0.7).cost is None
