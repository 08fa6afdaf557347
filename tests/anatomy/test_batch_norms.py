"""Which modules are batch norms, and what users put on them."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import FrozenBatchNorm2d, OwnForward, lived_in
from torch import nn

from normsmith import layers
from normsmith.anatomy.batch_norms import TENSORS, is_batch_norm, selected_batch_norms, tensors_of
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.errors import SurgeryError


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(2), True),
        (nn.LazyBatchNorm2d(), True),
        (nn.SyncBatchNorm(2), True),
        (layers.BatchNorm1d(2), True),
        (layers.BatchRenorm2d(2, total_steps=9), True),
        (layers.BatchNormAct2d(2), True),
        (FrozenBatchNorm2d(2), True),
        (OwnForward(2), True),
        (layers.Whiten1d(2), False),
        (nn.InstanceNorm1d(2, track_running_stats=True), False),
        (nn.GroupNorm(1, 2), False),
        (nn.Sequential(nn.BatchNorm2d(2)), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_a_batch_norm(module, expected):
    assert is_batch_norm(module) == expected


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_norm_is_none():
    assert not is_batch_norm(torch.jit.script(nn.BatchNorm2d(2)))


def test_attributes_that_users_put_on_a_norm():
    module = nn.BatchNorm1d(4)
    assert read_batch_norm(module).attributes() == {}
    module.stage = 3
    assert read_batch_norm(module).attributes() == {"stage": 3}
    assert read_batch_norm(lived_in(FrozenBatchNorm2d(4))).attributes() == {}


def test_every_tensor_of_a_batch_norm_has_its_name_whether_it_is_there_or_not():
    module = FrozenBatchNorm2d(4)
    tensors = tensors_of(module)
    assert tuple(tensors) == TENSORS
    assert tensors["weight"] is module.weight  # a buffer
    assert tensors["num_batches_tracked"] is None
    module = nn.BatchNorm1d(4, affine=False)
    assert tensors_of(module)["weight"] is None
    assert tensors_of(module)["num_batches_tracked"] is module.num_batches_tracked


def test_batch_norms_are_selected_in_the_order_of_the_modules():
    model = nn.Sequential(
        nn.BatchNorm1d(2), nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3)), nn.LayerNorm(3)
    )
    locations = Locations(model)
    assert selected_batch_norms(locations, "fold") == [model[0], model[2][0]]
    assert selected_batch_norms(locations, "fold", "2.*") == [model[2][0]]
    assert selected_batch_norms(locations, "fold", last=1) == [model[2][0]]
    with pytest.raises(
        SurgeryError, match=r"^fold: .* Sequential, but none of its 2 batch norms is selected: 0, 2\.0$"
    ):
        selected_batch_norms(locations, "fold", "3")
    with pytest.raises(SurgeryError, match=r"^freeze: .* ReLU, but it has no batch norm; insert puts norms"):
        selected_batch_norms(Locations(nn.ReLU()), "freeze")
