"""The ranks that share a layer's statistics: what is refused before there are any."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.ranks import check_process_group, join_ranks


@pytest.fixture
def alone():
    """A world of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


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


def test_each_norm_joins_with_a_group_of_its_own_that_no_constructor_makes(alone):
    net = nn.Sequential(
        ours.BatchNorm1d(3, process_group="world"),
        ours.BatchNorm1d(3),
        ours.BatchRenorm1d(3, total_steps=9, process_group="world"),
    )
    assert all(layer._sync is None for layer in net)
    join_ranks(net)
    first, none, second = (layer._sync for layer in net)
    assert none is None
    assert len({id(first.group), id(second.group), id(dist.group.WORLD)}) == 3
    join_ranks(net)
    net(torch.randn(4, 3))
    assert (net[0]._sync, net[2]._sync) == (first, second)


def test_to_join_nobody_names_the_layer():
    net = nn.Sequential(ours.BatchNorm1d(3, process_group="world"))
    with pytest.raises(
        InputError, match=r"^Sequential\.0: process_group: expected torch\.distributed to be init"
    ):
        join_ranks(net)
    net[0].process_group = 3
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(
            InputError, match=r"^Sequential\.0: process_group: expected a process group, got 3"
        ):
            join_ranks(net)
    finally:
        dist.destroy_process_group()


@pytest.mark.compiles
@pytest.mark.parametrize("fullgraph", [False, True])
def test_the_first_training_forward_may_be_a_compiled_one(alone, fullgraph):
    torch._dynamo.reset()
    layer, x = ours.BatchNorm1d(3, process_group="world"), torch.randn(6, 3)
    compiled = torch.compile(layer, backend="eager", fullgraph=fullgraph)
    torch.testing.assert_close(compiled(x), nn.BatchNorm1d(3)(x))
    group = layer._sync.group
    torch.testing.assert_close(compiled(x), nn.BatchNorm1d(3)(x))
    assert layer._sync.group is group
    assert layer.num_batches_tracked == 2
