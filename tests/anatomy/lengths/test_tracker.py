"""What is kept of the tensors of a block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.anatomy.lengths.layouts import Layout, LayoutError, Samples, Steps
from normsmith.anatomy.lengths.sizes import Size
from normsmith.anatomy.lengths.tracker import Call, Lost, Tracker
from normsmith.errors import LengthsError

LAYOUT = Layout.of_shape((2, 3, 4), {0: Samples(2), 2: Steps(0, (4, 1), 4)})


class Asks(nn.Module):
    def __init__(self, tracker: Tracker | None = None) -> None:
        super().__init__()
        self.tracker = tracker

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.tracker is not None
        self.tracker.refuse("it is tried")


def test_layouts_are_known_by_tensor() -> None:
    net = nn.Linear(1, 1)
    tracker, x = Tracker(net, 2), torch.ones(2, 3, 4)
    assert tracker.is_strange(x)
    assert not tracker.is_strange(net.weight)
    assert tracker.layout(x) is None
    tracker.set(x, LAYOUT)
    assert tracker.layout(x) == LAYOUT
    assert tracker.is_tracked(x)
    assert not tracker.is_strange(x)
    assert isinstance(tracker.size(x, 2), Size)
    assert type(tracker.size(x, 1)) is int
    filled = tracker.filled(x, 5.0)
    assert filled[1, 0].tolist() == [1, 5, 5, 5]
    assert tracker.layout(filled) == LAYOUT
    assert tracker.layout(tracker.elementwise(x + 1, (x, 1))) == LAYOUT
    with pytest.raises(LayoutError):
        tracker.elementwise(x[:, :, :2], (x,))


def test_what_is_lost_is_refused_when_it_is_used() -> None:
    tracker, x = Tracker(nn.ReLU(), 2), torch.ones(2)
    tracker.set(x, Lost("its reason"))
    assert tracker.is_tracked(x)
    with pytest.raises(LengthsError, match="its reason"):
        tracker.of(x)


def test_refusals_name_the_innermost_module() -> None:
    net = nn.Sequential(nn.Sequential(nn.ReLU(), Asks()))
    net[0][1].tracker = Tracker(net, 2)
    with pytest.raises(
        LengthsError, match=r"0\.1 cannot be followed: it is tried; give it a rule, rules={'0.1'"
    ):
        net(torch.ones(1))


def test_calls_give_their_arguments_by_name() -> None:
    tracker, x = Tracker(nn.ReLU(), 2), torch.ones(3)
    call = Call(tracker, "sum", torch.sum, (x, 0), {"keepdim": True})
    assert call.named("input", "dim") == {"input": x, "dim": 0, "keepdim": True}
    assert call.first is x
    assert call.with_first(2 * x).item() == 6
    assert Call(tracker, "sum", torch.sum, (), {"input": x}).with_first(x).item() == 3
    with pytest.raises(LengthsError, match="called with 2 arguments"):
        call.named("input")
