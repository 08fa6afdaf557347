"""What is overwritten in place, and by whom it is read, as both ways to follow a forward see it."""

import pytest
import torch
from tests.surgery.hostile import HOSTILE, batch
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy import trace
from normsmith.anatomy.aliasing import needs_a_copy, overwritten_after, read_in_place


class Written(nn.Module):
    """Overwrites the result of its layer in some way, and goes on with one of the two tensors."""

    def __init__(self, way):
        super().__init__()
        self.a, self.b, self.way = nn.Linear(4, 4), nn.Linear(4, 4), way
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(inplace=True)

    def forward(self, x):
        return self.b(self.way(self, self.a(x)))


def _augmented(h):
    h += 1
    return h


def _ignored(h, write):
    write(h)
    return h


RETURNED = {
    "module": lambda m, h: m.relu(h),
    "dropout": lambda m, h: m.drop(h),
    "inplace=True": lambda m, h: F.relu(h, inplace=True),
    "F.relu_": lambda m, h: F.relu_(h),
    "method": lambda m, h: h.relu_(),
    "+=": lambda m, h: _augmented(h),
    "out=": lambda m, h: torch.tanh(h, out=h),
    "Hardswish": lambda m, h: F.hardswish(h, inplace=True),
}
IGNORED = {
    "module": lambda m, h: _ignored(h, m.relu),
    "dropout": lambda m, h: _ignored(h, m.drop),
    "method": lambda m, h: _ignored(h, lambda t: t.add_(1)),
    "view": lambda m, h: _ignored(h, lambda t: m.relu(t.view(-1))),
    "part": lambda m, h: _ignored(h, lambda t: t[:, :2].mul_(2)),
    "out=": lambda m, h: _ignored(h, lambda t: torch.tanh(t, out=t)),
}


@pytest.mark.parametrize("x", [None, torch.ones(2, 4)])
@pytest.mark.parametrize("way", RETURNED)
def test_a_result_that_is_used_may_be_written_elsewhere(way, x):
    graph = trace(Written(RETURNED[way]), x)
    a, writer, b = graph.events[1:]
    assert graph.overwritten_by(a) == (writer,)
    assert writer.writes == (a,)
    assert b.sources == (writer,)
    assert writer.shares
    assert not a.shares
    assert read_in_place(graph, writer) is read_in_place(graph, a) is None


@pytest.mark.parametrize("x", [None, torch.ones(2, 4)])
@pytest.mark.parametrize("way", IGNORED)
def test_a_result_that_is_ignored_must_stay_where_it_is(way, x):
    model = Written(IGNORED[way])
    graph = trace(model, x)
    (a,), (b,) = graph.of(model.a), graph.of(model.b)
    writer = graph.overwritten_by(a)[-1]
    reason = read_in_place(graph, writer)
    assert reason is not None
    assert "Linear b reads the tensor that was overwritten" in reason
    assert read_in_place(graph, a) is None  # a norm of its result is written to in its place
    assert b.sources[0] is not a


def test_an_output_that_was_overwritten():
    class Returned(nn.Module):
        def forward(self, x):
            h = x * 2
            torch.relu_(h)
            return h

    for x in (None, torch.ones(2)):
        graph = trace(Returned(), x)
        assert graph.outputs == graph.outputs_written == (graph.events[-1],)
        assert "the model's output is the tensor" in str(read_in_place(graph, graph.events[-1]))


def test_slices_that_share_nothing_are_told_apart():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 4)

        def forward(self, x):
            one, other = self.a(x).chunk(2, 1)
            one.relu_()
            return self.b(other)

    model = Split()
    graph = trace(model, torch.ones(2, 4))
    (b,) = graph.of(model.b)
    assert [source.name for source in b.sources] == ["chunk"]
    assert b.reads_written == ()


COPIES = {
    "pre-activation",
    "pre-activation in a Sequential",
    "pre-activation by a function",
    "slice assigned",
    "norm after activation",
    "dropout in place",
    "out=",
    "input overwritten",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_stand_ins_copy_where_others_would_see_what_is_written(name):
    model, twin = HOSTILE[name].pair()
    for one, copies in ((model, name in COPIES), (twin, False)):
        graph = trace(one, batch())
        (norm,) = graph.having("norm")
        assert needs_a_copy(graph, norm, lambda _: False) is copies


def test_norms_that_go_together_are_one():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.ReLU(inplace=True))
    graph = trace(model)
    last = graph.having("norm")[1]
    assert needs_a_copy(graph, last, lambda _: False)
    assert not needs_a_copy(graph, last, lambda event: event.role == "norm")


def test_what_is_overwritten_after_a_call_took_it():
    graph = trace(HOSTILE["input overwritten"].pair()[0].eval(), batch())
    (norm,) = graph.having("norm")
    writer = overwritten_after(graph, norm.sources[0], norm)
    assert writer is not None
    assert writer.name == "relu"
    assert overwritten_after(graph, norm.sources[0], writer) is None
