"""What an import yields, loaded into layers that exist."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.layers.interop.saved import read
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import (
    BatchNorm1d,
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    LazyBatchRenorm1d,
)
from normsmith.layers.interop import from_sb3
from normsmith.layers.schedules import Linear


@pytest.mark.parametrize("kind", [BatchRenorm1d, BatchRenorm2d, BatchRenorm3d])
def test_loads_into_layers_of_any_rank_and_tracking(kind):
    imported = from_sb3(read("sb3_contrib"))
    layer = kind(3, total_steps=10, track="std")
    assert imported.load_into(layer) is layer
    assert (layer.epsilon, layer.momentum, layer.num_batches_tracked) == (1e-3, 0.01, 100_001)
    assert layer.schedule == Linear(3.0, 5.0, 100_001, 100_001, 100_001)
    torch.testing.assert_close(layer.running_std, (layer.running_var + 1e-3).sqrt())
    shape = (4, 3, 2, 2, 2)[: 2 if kind is BatchRenorm1d else 4 if kind is BatchRenorm2d else 5]
    assert layer.eval()(torch.randn(shape)).isfinite().all()
    copy.deepcopy(layer).load_state_dict(layer.state_dict())


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (BatchRenorm1d(4, total_steps=10), "expected 4 channels, got 3"),
        (BatchRenorm1d(3, total_steps=10, affine=False), "affine"),
        (BatchRenorm1d(3, total_steps=10, track_running_stats=False), "track_running_stats"),
        (BatchNorm1d(3), "expected a BatchRenorm layer of normsmith, got BatchNorm1d"),
        (LazyBatchRenorm1d(total_steps=10), "lazy"),
    ],
    ids=["channels", "affine", "untracked", "batch norm", "lazy"],
)
def test_a_layer_that_does_not_fit_stays_as_it_was(layer, said):
    model = nn.Sequential(layer)
    lazy = isinstance(layer, LazyBatchRenorm1d)
    before = {} if lazy else copy.deepcopy(model.state_dict())
    settings = (layer.epsilon, layer.momentum, getattr(layer, "schedule", 0))
    with pytest.raises(InputError, match=said) as raised:
        from_sb3(read("sb3_contrib")).load_into(layer)
    assert "sb3-contrib" in str(raised.value)
    assert isinstance(layer, BatchNorm1d) or "Sequential.0" in str(raised.value)
    assert (layer.epsilon, layer.momentum, getattr(layer, "schedule", 0)) == settings
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
