"""Averages of models: weights, statistics and what they ask for; the same tensors, and an optimizer that goes on."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import average


def models():
    torch.manual_seed(0)
    every = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)) for _ in range(3)]
    for number, model in enumerate(every):
        model[1].running_mean += number
    return every


def test_weights_and_statistics_are_averaged_together_and_a_recalibration_is_asked_for():
    first, *others = models()
    weight = first[0].weight
    expected = (0.5 * first[0].weight + 0.25 * (others[0][0].weight + others[1][0].weight)).detach().clone()
    plan = average(first, others, shares=[2, 1, 1])
    assert plan.changes[0].before == "4 parameters"  # γ and β of the norm are equal
    assert plan.changes[0].why == "shares of 0.25 to 0.5"
    assert plan.warnings[0].reason.startswith("weights differ: recalibrate(model, loader) after this")
    plan.apply()
    assert first[0].weight is weight
    torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(first[1].running_mean, torch.full((3,), 0.75))
    torch.testing.assert_close(first[1].running_var, torch.full((3,), 1 + 0.6875))


def test_equal_weights_ask_for_nothing_but_what_the_statistics_need():
    first = models()[0]
    other = deepcopy(first)
    other[1].running_mean += 2
    plan = average(first, [other], counts=[10, 10])
    assert [change.path for change in plan.changes] == ["1"]
    assert plan.warnings == ()
    assert plan.changes[0].why == "exact: of 20 values per channel"


def test_it_can_be_undone_and_an_optimizer_goes_on():
    first, *others = models()
    before = deepcopy(first.state_dict())
    optimizer = torch.optim.Adam(first.parameters())
    first(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state[first[0].weight]
    trained = deepcopy(first.state_dict())
    plan = average(first, others)
    plan.apply(optimizer=optimizer)
    assert optimizer.state[first[0].weight] is state
    plan.revert()
    assert all(torch.equal(value, trained[name]) for name, value in first.state_dict().items())
    assert not torch.equal(before["0.weight"], trained["0.weight"])


def test_other_buffers_stay_and_are_named():
    first = nn.Sequential(nn.Linear(1, 1))
    first.register_buffer("table", torch.zeros(2))
    other = deepcopy(first)
    other.table += 1
    plan = average(first, [other])
    assert [remark.path for remark in plan.warnings] == ["table"]
    assert plan.changes == ()


def test_ema_copies_get_the_same():
    first, *others = models()
    ema = deepcopy(first)
    average(first, others).apply(ema=ema)
    assert torch.equal(ema[2].weight, first[2].weight)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([1, 0, 1], r"shares\[1\]: expected a number above 0, got 0"),
        ([1], "3 together, got 1"),
        (3, "3 together, got int"),
        ([1, 2, "3"], r"shares\[2\]: expected a number above 0, got '3'"),
        (torch.tensor([1.0, 2.0, -3.0]), r"shares\[2\]: .* got -3.0"),
    ],
)
def test_shares_that_do_not_fit_are_refused(shares, message, unchecked):
    first, *others = models()
    with pytest.raises(InputError, match=message):
        average(first, others, shares=shares)


def test_other_structures_and_broken_weights_are_refused():
    first, other, _ = models()
    with pytest.raises(InputError, match=r"average: others\[0\]: expected a model of the same structure"):
        average(first, [nn.Linear(2, 3)])
    other[2].weight.data[0] = float("nan")
    with pytest.raises(SurgeryError, match=r"NaN or infinite ones in 2\.weight"):
        average(first, [other])
