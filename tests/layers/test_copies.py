"""Copies and pickles of layers: what they take along, and old names that they still know."""

import copy
import pickle

import pytest
import torch

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
