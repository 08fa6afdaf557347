"""The norms in a model, ours and others'."""

import pytest
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.of_model import norms_of, norms_of_others


def test_ours_are_found_within_others_modules_and_recurrent_networks():
    model = nn.Sequential(nn.Sequential(ours.BatchNorm1d(3)), ours.BatchNormGRU(2, 2, normalize="input"))
    assert norms_of(model, "here") == [model[0][0], model[1].l0.norm_ih]
    with pytest.raises(
        InputError, match=r"^here: expected a model with norms of normsmith, got ReLU without any"
    ):
        norms_of(nn.ReLU(), "here")


def test_others_are_those_that_hold_a_running_mean():
    model = nn.Sequential(
        ours.BatchNorm1d(3),
        nn.BatchNorm1d(3),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.InstanceNorm1d(3),
        nn.InstanceNorm1d(3, track_running_stats=True),
        nn.LayerNorm(3),
    )
    assert list(norms_of_others(model, "here")) == ["1", "4"]
    assert list(norms_of_others(model[1], "here")) == [""]
