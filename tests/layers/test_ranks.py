"""The ranks that share a layer's statistics: what is refused before there are any."""

import pytest
import torch

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.ranks import check_process_group


def test_a_group_that_is_not_initialised_is_refused():
    layer = ours.BatchNorm1d(3, process_group="world")
    with pytest.raises(
        InputError, match=r"BatchNorm1d: process_group: expected torch\.distributed to be initialised"
    ):
        layer(torch.randn(4, 3))
    assert layer.num_batches_tracked == 0
    layer.eval()(torch.randn(4, 3))


def test_world_and_groups_pass_and_other_words_do_not():
    check_process_group(None)
    check_process_group("world")
    with pytest.raises(InputError, match="expected a process group, 'world' or None, got 'all'"):
        check_process_group("all")
