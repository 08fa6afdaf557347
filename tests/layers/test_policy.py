"""Which statistics normalise and whether the running ones are updated: as torch derives it, or pinned."""

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.policy import Policy


@pytest.mark.parametrize(
    ("training", "tracks", "policy"),
    [
        (True, True, Policy("batch", True)),
        (True, False, Policy("batch", False)),
        (False, True, Policy("running", False)),
        (False, False, Policy("batch", False)),
    ],
)
def test_without_freezing_it_is_derived_as_torch_derives_it(training, tracks, policy):
    layer = ours.BatchNorm1d(3, track_running_stats=tracks).train(training)
    theirs = nn.BatchNorm1d(3, track_running_stats=tracks).train(training)
    assert layer.policy == policy
    x = torch.randn(8, 3) + 5
    torch.testing.assert_close(layer(x), theirs(x))
    if tracks:
        torch.testing.assert_close(layer.running_mean, theirs.running_mean)


def test_freezing_outlasts_train_and_ends_with_unfreeze():
    net = nn.Sequential(ours.BatchNorm1d(3).freeze())
    assert net.train()[0].policy == Policy("running", False)
    assert net[0].pinned == Policy("running", False)
    assert net[0].unfreeze().policy == Policy("batch", True)
    assert net[0].pinned is None


def test_freezing_refuses_other_statistics(unchecked):
    with pytest.raises(InputError, match="normalize_with: expected one of"):
        ours.BatchNorm1d(3).freeze("both")


def test_freezing_needs_statistics_and_pins_what_it_is_told():
    with pytest.raises(InputError, match="expected running statistics to freeze to"):
        ours.BatchNorm1d(3, track_running_stats=False).freeze()
    layer = ours.BatchNorm1d(3).freeze("batch")
    x = torch.randn(8, 3)
    torch.testing.assert_close(layer.eval()(x), ours.BatchNorm1d(3)(x))
    assert layer.num_batches_tracked == 0
    assert "frozen to batch statistics" in repr(layer)
    assert layer.weight.requires_grad
