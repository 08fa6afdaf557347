"""All norms of a model frozen at once."""

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.frozen import freeze, unfreeze


def net(*more):
    return nn.Sequential(
        ours.BatchNorm1d(3), nn.Sequential(ours.BatchRenormAct1d(3, total_steps=9)), ours.Whiten1d(3), *more
    )


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("normalize_with", ["running", "batch"])
def test_no_train_brings_updates_back_until_unfreeze(normalize_with):
    model = net()
    assert freeze(model, normalize_with) is model
    before, x = state(model), torch.randn(8, 3)
    y = model.train()(x)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    same = torch.equal(y, model.eval()(x))
    assert same, "pinned whatever the mode"
    assert unfreeze(model) is model
    model.train()(x)
    assert (
        model[0].num_batches_tracked == model[1][0].num_batches_tracked == model[2].num_batches_tracked == 1
    )


def test_the_norms_of_recurrent_networks_are_frozen_too():
    lstm = freeze(nn.ModuleDict({"lstm": ours.BatchNormLSTM(3, 2, max_steps=4)}))["lstm"]
    lstm.train()(torch.randn(4, 5, 3))
    assert lstm.l0.norm_c.num_batches_tracked.sum() == 0
    assert lstm.policy.normalize_with == "running"


@pytest.mark.parametrize("other", [nn.BatchNorm1d(3), nn.SyncBatchNorm(3), nn.LazyBatchNorm1d()])
def test_norms_of_others_are_named_and_nothing_is_frozen(other):
    model = net(nn.Sequential(other))
    with pytest.raises(InputError, match=r"got others at 3\.0, .* use normsmith\.surgery\.freeze\(model"):
        freeze(model)
    assert model[0].pinned is None
    unfreeze(model)


def test_a_norm_without_running_statistics_is_named_and_nothing_is_frozen():
    model = net(ours.BatchNorm1d(3, track_running_stats=False))
    model[0].freeze("batch")
    with pytest.raises(InputError, match=r"^Sequential\.3: expected running statistics to freeze to"):
        freeze(model)
    assert [layer.pinned and layer.pinned.normalize_with for layer in (model[0], model[1][0])] == [
        "batch",
        None,
    ]
    freeze(model, "batch")
    assert model[3].pinned is not None


@pytest.mark.parametrize("function", [freeze, unfreeze])
def test_a_model_without_norms_is_refused(function):
    with pytest.raises(InputError, match="expected a model with norms of normsmith, got Linear without any"):
        function(nn.Linear(2, 2))
