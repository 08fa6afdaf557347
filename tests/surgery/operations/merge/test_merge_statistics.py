"""Merged statistics: those of all data where it says exact, which layers are approximate, and bad input."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.layers import BatchNorm2d, BatchRenorm2d
from normsmith.surgery import Plan, freeze, merge_statistics, recalibrate


def network(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 5, 3), norm(5), nn.Flatten(), nn.LazyLinear(2)
    )


def clients():
    """Batches of three clients of unequal size, from different distributions."""
    torch.manual_seed(1)
    sizes = (24, 7), (5,), (2, 40, 1)
    return [
        [torch.randn(size, 3, 6, 6) * (number + 1) + 3 * number for size in batches]
        for number, batches in enumerate(sizes)
    ]


def trained_apart(norm=nn.BatchNorm2d):
    """A model for each client, of equal weights, with what recalibrate measured on the client's data."""
    first = network(norm)
    first.eval()(torch.zeros(1, 3, 6, 6))  # the lazy layer gets its size
    first.train()
    models = [first, deepcopy(first), deepcopy(first)]
    return models, [recalibrate(model, data) for model, data in zip(models, clients(), strict=True)]


def pooled(model):
    """What recalibrate measures on all data."""
    other = deepcopy(model)
    recalibrate(other, [batch for data in clients() for batch in data]).apply()
    return other


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm2d, BatchRenorm2d])
@pytest.mark.parametrize("source", ["measured", "numbers", "state dicts"])
def test_first_norms_are_those_of_all_data(norm, source):
    models, results = trained_apart(norm)
    expected = pooled(models[0])
    counts = results
    if source != "measured":
        counts = [{layer.path: layer.count for layer in result.layers} for result in results]
        for result in results:
            result.apply()
    others = models[1:] if source != "state dicts" else [model.state_dict() for model in models[1:]]
    plan = merge_statistics(models[0], others, counts=counts)
    assert plan.changes[0].why == "exact: of 1264 values per channel"
    assert plan.changes[1].why.startswith("approximate of 316 values per channel: 1 before it normalises by")
    assert "1 of 2 layers are approximate (4)" in plan.warnings[0].reason
    plan.apply()
    for name, value in expected[1].named_buffers():
        torch.testing.assert_close(dict(models[0][1].named_buffers())[name], value, rtol=1e-6, atol=1e-6)


def test_variances_between_models_count():
    models, results = trained_apart()
    merge_statistics(models[0], models[1:], counts=results).apply()
    within = torch.stack([result.layers[0].after["running_var"] for result in results]).mean(0)
    assert (within / models[0][1].running_var).max() < 0.9  # what an average of variances lacks


def test_without_counts_each_model_counts_the_same_and_all_is_approximate():
    one, other = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    other.running_mean += 2
    plan = merge_statistics(one, [other])
    assert (
        plan.changes[0].why == "approximate: no counts were given: each model's statistics count by its share"
    )
    plan.apply()
    assert one.running_mean.item() == 1
    assert one.running_var.item() == 2  # within 1, between 1


def test_moving_averages_are_called_approximate():
    models, _ = trained_apart()
    for model, steps in zip(models, (3, 2, 5), strict=True):
        for _ in range(steps):
            model.train()(torch.randn(2, 3, 6, 6))
    plan = merge_statistics(models[0], models[1:], counts=[72, 48, 120])
    assert "the model has moving averages of 3 training steps, which have no count" in plan.changes[0].why
    plan.apply()
    assert models[0][1].num_batches_tracked == 5
    plan.revert()
    assert models[0][1].num_batches_tracked == 3


def test_layers_without_momentum_have_seen_the_steps_of_all():
    models = [nn.BatchNorm1d(2, momentum=None) for _ in range(3)]
    for steps, model in enumerate(models):
        model.num_batches_tracked.fill_(steps)
    merge_statistics(models[0], models[1:]).apply()
    assert models[0].num_batches_tracked == 3


def test_weights_that_differ_before_a_norm_make_it_approximate():
    models, results = trained_apart()
    models[1][0].bias.data += 1
    plan = merge_statistics(models[0], models[1:], counts=results)
    assert "0.bias before it differs between the models" in plan.changes[0].why


def test_frozen_norms_stay_and_count_as_weights():
    models, _ = trained_apart()
    for model in models:
        freeze(model, only="1").apply()
    results = [recalibrate(model, data) for model, data in zip(models, clients(), strict=True)]
    plan = merge_statistics(models[0], models[1:], counts=results)
    assert [remark.path for remark in plan.kept] == ["1"]
    assert [change.why for change in plan.changes] == ["exact: of 316 values per channel"]
    models[2][1].running_mean += 1
    plan = merge_statistics(models[0], models[1:], counts=results)
    assert "1.running_mean before it differs" in plan.changes[0].why


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        return self.norm(x) if float(x.sum()) > -1e9 else x


def test_what_cannot_be_followed_is_approximate_until_there_is_a_batch():
    one, other = Dynamic(), Dynamic()
    plan = merge_statistics(one, [other], counts=[10, 10])
    assert "give batch=" in plan.changes[0].why
    plan = merge_statistics(one, [other], counts=[10, 10], batch=torch.randn(3, 2))
    assert plan.changes[0].why == "exact: of 20 values per channel"


def test_a_client_whose_data_reached_nothing_is_left_out():
    models, results = trained_apart()
    results[1] = recalibrate(models[1], clients()[1], forward=lambda model, batch: model[:3](batch))
    plan = merge_statistics(models[0], models[1:], counts=results)
    assert [change.why.split(": ")[0] for change in plan.changes] == [
        "exact",
        "approximate of 296 values per channel",
    ]


def test_a_plan_goes_to_another_process_and_to_copies():
    models, results = trained_apart()
    ema = deepcopy(models[0])
    plan = merge_statistics(models[0], models[1:], counts=results)
    text = plan.to_json()
    assert json.loads(text)["operation"]["name"] == "merge_statistics"
    there = Plan.from_json(deepcopy(models[0]), text)
    plan.apply(ema=ema)
    assert torch.equal(there.apply()[4].running_var, models[0][4].running_var)
    assert torch.equal(ema[1].running_mean, models[0][1].running_mean)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([0, 10, 10], r"counts\[0\]: expected the number of values per channel, at least 2 .* got 0"),
        ([0.2, 0.3, 0.5], "at least 2"),
        ([10, 10, float("inf")], r"counts\[2\]"),
        ([10, 10], "3 together, got 2"),
        (30, "3 together, got int"),
        ([10, 10, "10"], r"counts\[2\]: expected a number, numbers by the paths .* got str"),
        ([10, 10, {"1": 10}], r"counts\[2\]: expected a number for each layer, got none for 4"),
        ([10, 10, {"1": 10, "4": 0}], r"counts\[2\]\['4'\]: .* got 0"),
        (
            [10, 10, {"1": 10, "4": 10, "9": 10}],
            r"counts\[2\]: expected paths of the model's layers, got '9'",
        ),
    ],
)
def test_counts_that_do_not_fit_are_refused(counts, message, unchecked):
    models, _ = trained_apart()
    before = deepcopy(models[0].state_dict())
    with pytest.raises(InputError, match=message):
        merge_statistics(models[0], models[1:], counts=counts)
    assert all(torch.equal(value, before[name]) for name, value in models[0].state_dict().items())


def test_a_recalibration_of_other_layers_is_refused():
    models, results = trained_apart()
    results[1] = recalibrate(models[1], clients()[1], only="1")
    with pytest.raises(InputError, match=r"counts\[1\]: expected statistics of 4 with 5 channels"):
        merge_statistics(models[0], models[1:], counts=results)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.BatchNorm1d(3), r"others\[0\]: expected weight of shape \(2,\), got \(3,\)"),
        (nn.BatchNorm1d(2, affine=False), "lacks 'weight'"),
        (nn.Sequential(nn.BatchNorm1d(2)), "same structure"),
        ("model", "expected a model or a state dict, got str"),
        (
            {name: [1.0, 1.0] for name in nn.BatchNorm1d(2).state_dict()},
            "expected a tensor as weight, got list",
        ),
    ],
)
def test_other_structures_are_refused(other, message, unchecked):
    with pytest.raises(InputError, match=message):
        merge_statistics(nn.BatchNorm1d(2), [other])


@pytest.mark.parametrize("others", [[], nn.BatchNorm1d(2), nn.BatchNorm1d(2).state_dict()])
def test_others_are_a_sequence(others, unchecked):
    with pytest.raises(InputError, match="others: expected a sequence of models"):
        merge_statistics(nn.BatchNorm1d(2), others)


def test_broken_statistics_are_refused():
    other = nn.BatchNorm1d(2)
    other.running_var[1] = -1
    with pytest.raises(
        SurgeryError, match=r"\(model\) of others\[0\]: expected finite .* in 1 of 2 channels"
    ):
        merge_statistics(nn.BatchNorm1d(2), [other])


def test_a_model_without_norms_is_refused():
    with pytest.raises(SurgeryError, match="merge_statistics: expected batch norm layers"):
        merge_statistics(nn.Linear(1, 1), [nn.Linear(1, 1)])
