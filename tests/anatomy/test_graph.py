"""Graphs made by hand: roles, producers, consumers and residual blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.anatomy import Event, Graph
from normsmith.anatomy.events import EventLog
from normsmith.anatomy.graph import is_linear
from normsmith.layers import BatchNorm2d


class Drawn:
    """A graph that is drawn call by call."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.x = self.log.add("input", "", "x")

    def call(self, what, *sources: Event, shape=None) -> Event:
        if isinstance(what, nn.Module):
            return self.log.add("module", "", type(what).__name__, sources, what, shape)
        return self.log.add("function", "", what, sources, shape=shape)

    def graph(self, *outputs: Event) -> Graph:
        return Graph(tuple(self.log.events), outputs, {}, "forward")


def conv() -> nn.Module:
    return nn.Conv2d(4, 4, 3)


@pytest.mark.parametrize(
    ("what", "role"),
    [
        (nn.Linear(2, 2), "producer"),
        (conv(), "producer"),
        ("conv2d", "producer"),
        (nn.BatchNorm2d(4), "norm"),
        (BatchNorm2d(4), "norm"),
        (nn.LayerNorm(4), "norm"),
        ("layer_norm", "norm"),
        (nn.GELU(), "activation"),
        ("relu", "activation"),
        ("add", "add"),
        (nn.Dropout(), "passing"),
        (nn.MaxPool2d(2), "passing"),
        ("dropout", "passing"),
        (nn.Flatten(), "other"),
        ("cat", "other"),
    ],
    ids=str,
)
def test_every_call_has_a_role(what, role):
    drawn = Drawn()
    event = drawn.call(what, drawn.x)
    assert event.role == role
    graph = drawn.graph(event)
    assert graph.having(role) == ((event,) if role != "other" else (drawn.x, event))


def test_inputs_and_parameters_have_no_role_whatever_their_names():
    log = EventLog()
    assert log.add("input", "", "relu").role == "other"
    assert log.add("parameter", "add", "add").role == "other"


def test_calls_consumers_and_outputs():
    drawn, norm = Drawn(), nn.BatchNorm2d(4)
    first = drawn.call(norm, drawn.x)
    squared = drawn.call("mul", first, first)
    second = drawn.call(norm, first)
    graph = drawn.graph(second)
    assert graph.of(norm) == (first, second)
    assert graph.of(nn.BatchNorm2d(4)) == ()
    assert graph.consumers(first) == (squared, second)  # once, though it is taken twice
    assert graph.consumers(second) == ()
    assert graph.is_output(second)
    assert not graph.is_output(squared)
    assert [event.index for event in graph.events] == [0, 1, 2, 3]


def test_the_producer_is_found_through_what_keeps_channels():
    drawn = Drawn()
    producer = drawn.call(conv(), drawn.x)
    through = [drawn.call(nn.BatchNorm2d(4), producer)]
    for what in ("relu", nn.MaxPool2d(2), "dropout"):
        through.append(drawn.call(what, through[-1]))
    graph = drawn.graph(through[-1])
    assert all(graph.producer(event) is producer for event in through)
    assert graph.producer(producer) is None
    assert graph.producer(drawn.x) is None


def test_no_producer_is_found_through_what_changes_channels_or_takes_several():
    drawn = Drawn()
    producer = drawn.call(conv(), drawn.x)
    added = drawn.call("add", producer, drawn.x)
    joined = drawn.call("cat", producer)
    graph = drawn.graph(added)
    for event in (added, joined):
        assert graph.producer(drawn.call("relu", event)) is None


@pytest.mark.parametrize(
    ("layer", "shapes", "through"),
    [
        (nn.Linear(4, 6), ((2, 3, 6), (6, 6)), True),  # (N, T, C) to (N·T, C)
        (nn.Linear(4, 6), ((2, 3, 6), (2, 18)), False),
        (nn.Conv2d(4, 6, 1), ((2, 6, 3, 3), (2, 18, 3)), False),
        (nn.Linear(4, 6), (None, None), False),
    ],
    ids=["keeps the last dimension", "joins the channels", "a convolution", "no shapes are known"],
)
def test_reshapes_after_linear_layers_may_keep_their_channels(layer, shapes, through):
    drawn = Drawn()
    producer = drawn.call(layer, drawn.x, shape=shapes[0])
    reshaped = drawn.call("reshape", producer, shape=shapes[1])
    norm = drawn.call(nn.BatchNorm1d(6), reshaped)
    assert drawn.graph(norm).producer(norm) is (producer if through else None)


def test_linear_calls():
    drawn = Drawn()
    assert is_linear(drawn.call(nn.Linear(2, 2), drawn.x))
    assert is_linear(drawn.call("linear", drawn.x))
    assert not is_linear(drawn.call(conv(), drawn.x))


# Residual blocks.


def test_a_residual_block_has_a_start_a_skip_and_a_branch():
    drawn = Drawn()
    stem = drawn.call(conv(), drawn.x)
    branch = [drawn.call("relu", stem)]
    branch.append(drawn.call(conv(), branch[-1]))
    add = drawn.call("add", branch[-1], stem)
    last = drawn.call("relu", add)
    (block,) = drawn.graph(last).residuals
    assert (block.start, block.skip, block.branch, block.add) == (stem, (), tuple(branch), add)


def test_the_shorter_way_is_the_skip_whichever_comes_first():
    drawn = Drawn()
    projection = drawn.call(conv(), drawn.x)
    first = drawn.call(conv(), drawn.x)
    second = drawn.call("relu", first)
    for sources in ((projection, second), (second, projection)):
        add = drawn.call("add", *sources)
    blocks = drawn.graph(add).residuals
    assert [(block.start, block.skip, block.branch) for block in blocks] == [
        (drawn.x, (projection,), (first, second))
    ] * 2


def test_branches_may_fork_and_join_within():
    drawn = Drawn()
    one, other = drawn.call("relu", drawn.x), drawn.call("tanh", drawn.x)
    joined = drawn.call("mul", one, other)
    beside = drawn.call("sigmoid", one)  # leads nowhere
    add = drawn.call("add", drawn.x, joined)
    (block,) = drawn.graph(add).residuals
    assert block.branch == (one, other, joined)
    assert beside not in block.branch


def test_blocks_after_each_other_start_at_the_addition_before():
    drawn = Drawn()
    first = drawn.call("add", drawn.x, drawn.call("relu", drawn.x))
    second = drawn.call("add", first, drawn.call("tanh", first))
    assert [block.start for block in drawn.graph(second).residuals] == [drawn.x, first]


def test_additions_that_close_no_block():
    drawn = Drawn()
    other = drawn.log.add("input", "", "y")
    drawn.call("add", drawn.x, other)  # of two inputs
    drawn.call("add", drawn.x, drawn.x)  # of one with itself
    drawn.call("add", drawn.x)  # of a number
    assert drawn.graph().residuals == ()


def test_events_are_told_apart_by_identity():
    drawn = Drawn()
    one, other = drawn.call("relu", drawn.x), drawn.call("relu", drawn.x)
    assert one != other
    assert len({one, other}) == 2


def test_a_shape_is_that_of_the_event():
    drawn = Drawn()
    assert drawn.call("relu", drawn.x, shape=tuple(torch.ones(2, 3).shape)).shape == (2, 3)
    assert drawn.call("relu", drawn.x).shape is None
