"""Context managers for the norms of a model: a mask for all of them, one update for several micro-batches."""

import copy

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers import accumulate, use_mask


def test_accumulating_makes_one_update_from_the_merged_batch():
    layer, whole = ours.BatchNorm2d(3), ours.BatchNorm2d(3)
    x = torch.randn(10, 3, 4, 4) + torch.arange(10.0).view(-1, 1, 1, 1)
    with accumulate(nn.Sequential(layer)):
        for part in x.split([4, 4, 2]):
            y = layer(part)
        assert layer.running_mean.sum() == 0
    whole(x)
    torch.testing.assert_close(layer.running_mean, whole.running_mean)
    torch.testing.assert_close(layer.running_var, whole.running_var)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(y, ours.BatchNorm2d(3)(x[8:]))


def test_accumulating_ghost_batches_averages_all_of_them():
    layer, whole = ours.BatchNorm1d(3, ghost_batch_size=4), ours.BatchNorm1d(3, ghost_batch_size=4)
    x = torch.randn(16, 3)
    with accumulate(layer):
        layer(x[:8])
        layer(x[8:])
    whole(x)
    torch.testing.assert_close(layer.running_var, whole.running_var)


def test_accumulating_commits_nothing_when_it_fails():
    layer = ours.BatchNorm1d(3)

    def fail():
        with accumulate(layer):
            layer(torch.randn(4, 3))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert layer.num_batches_tracked == 0
    layer(torch.randn(4, 3))
    assert layer.num_batches_tracked == 1
    with accumulate(layer), pytest.raises(InputError, match="not accumulating yet"), accumulate(layer):
        pass


def test_layers_say_that_they_accumulate():
    layer = ours.BatchNorm1d(3)
    assert not layer.is_accumulating
    with accumulate(layer):
        assert layer.is_accumulating
    assert not layer.is_accumulating


@pytest.mark.parametrize("context", [accumulate, lambda model: use_mask(model, None)])
def test_contexts_refuse_models_without_our_norms(context):
    with (
        pytest.raises(InputError, match="expected a model with norms of normsmith, got Linear"),
        context(nn.Linear(2, 2)),
    ):
        pass


def test_masks_reach_nested_norms_and_go_again():
    net = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(ours.BatchNorm1d(4), nn.ReLU()), ours.BatchNormAct1d(4)
    )
    x, mask = torch.randn(6, 3), torch.tensor([1, 1, 1, 1, 0, 0])
    twin = copy.deepcopy(net)
    with use_mask(net, mask):
        y = net(x)
        with use_mask(net, None):
            assert (net(x)[4:] != 0).any()
        assert net[2].context_mask is mask
    assert (y[4:] == 0).all()
    torch.testing.assert_close(y[:4], twin(x[:4]))
    assert net[2].context_mask is None
