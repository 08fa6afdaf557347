"""Copies and pickles of layers: what they take along, and old names that they still know."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import normsmith.layers as ours
from normsmith.layers import accumulate, use_mask


def test_a_pickle_of_version_0_1_has_private_names_which_are_public_now():
    layer = ours.BatchNorm1d(3).freeze()
    state = layer.__getstate__()
    state["_pinned"], state["_context_mask"] = state.pop("pinned"), state.pop("context_mask")
    twin = ours.BatchNorm1d.__new__(ours.BatchNorm1d)
    twin.__setstate__(state)
    assert twin.policy == ("running", False)
    assert vars(twin).keys() == vars(layer).keys()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_leave_what_belongs_to_an_open_block(copied):
    layer = ours.BatchNorm1d(3).freeze()
    with use_mask(layer, torch.ones(4, dtype=torch.bool)), accumulate(layer):
        twin = copied(layer)
        assert twin.context_mask is None
        assert not twin.is_accumulating
        assert layer.is_accumulating
    assert twin.pinned == layer.pinned


def test_a_copy_shares_the_process_group_and_nothing_else():
    class Group:
        """Stands for a process group, which cannot be copied."""

        def __deepcopy__(self, memo):
            raise TypeError

    layer = ours.BatchNorm1d(3)
    layer.process_group = Group()
    twin = copy.deepcopy(layer)
    assert twin.process_group is layer.process_group
    assert twin.running_mean is not layer.running_mean
    assert twin.weight is not layer.weight


@pytest.mark.parametrize(
    "kind",
    [ours.BatchNorm1d, ours.BatchNormAct1d, ours.Whiten1d, ours.InputNorm],
    ids=lambda kind: kind.__name__,
)
def test_parametrized_layers_are_copied_and_not_pickled_as_those_of_torch(kind):
    layer = kind(4)
    if layer.weight is None:
        layer.register_parameter("weight", torch.nn.Parameter(torch.ones(4)))
    weight_norm(layer, dim=None)
    twin = copy.deepcopy(layer)
    assert type(twin) is type(layer)
    assert is_parametrized(twin, "weight")
    x = torch.randn(6, 4)
    torch.testing.assert_close(twin(x), layer(x))
    with torch.no_grad():
        twin.parametrizations.weight.original0.mul_(2)
    torch.testing.assert_close(twin.weight, 2 * layer.weight)
    with pytest.raises(RuntimeError, match="Serialization of parametrized modules"):
        pickle.dumps(layer)


def test_a_parametrized_model_is_averaged():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), weight_norm(ours.BatchNorm1d(4), dim=None))
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    with torch.no_grad():
        net[1].parametrizations.weight.original0.fill_(6.0)
    average.update_parameters(net)
    average.update_parameters(net)
    assert average.module[1].parametrizations.weight.original0.item() == 6.0
    assert average(torch.randn(3, 4)).shape == (3, 4)


class WithStateOfItsOwn(ours.BatchNorm1d):
    def __getstate__(self):
        return {**super().__getstate__(), "copied": True}


def test_a_class_below_says_what_its_copies_hold():
    assert copy.deepcopy(WithStateOfItsOwn(3)).copied
