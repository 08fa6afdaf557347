"""Residual blocks told by where their norms are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.anatomy import trace
from normsmith.anatomy.passing import effective_consumers, effective_source
from normsmith.anatomy.residual import branch_ends, closed_by, identity_skips, residual_form


class Block(nn.Module):
    """after(x + f(before(x)))."""

    def __init__(self, branch, after=(), skip=()) -> None:
        super().__init__()
        self.branch, self.after, self.skip = (nn.Sequential(*layers) for layers in (branch, after, skip))

    def forward(self, x):
        return self.after((self.skip(x) if self.skip else x) + self.branch(x))


def norm():
    return nn.BatchNorm1d(4)


def linear():
    return nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("block", "form"),
    [
        (Block([norm(), linear(), nn.ReLU()]), "x + f(norm(x))"),
        (Block([nn.Dropout(), norm(), linear()]), "x + f(norm(x))"),
        (Block([linear(), norm()]), "x + norm(f(x))"),
        (Block([linear(), norm(), nn.Dropout()]), "x + norm(f(x))"),
        (Block([linear()], after=[norm()]), "norm(x + f(x))"),
        (Block([linear()], after=[nn.Dropout(), norm()]), "norm(x + f(x))"),
        (Block([linear(), nn.ReLU()]), "x + f(x)"),
        (Block([linear(), norm(), nn.ReLU()], after=[nn.ReLU(), norm()]), "x + f(x)"),
    ],
    ids=["pre", "pre, dropout", "end", "end, dropout", "post", "post, dropout", "none", "inside"],
)
def test_forms(block, form):
    graph = trace(block, torch.randn(3, 4))
    (residual,) = graph.residuals
    assert residual_form(graph, residual) == form


def test_consumers_and_sources_are_seen_through_what_passes_channels_on():
    model = nn.Sequential(linear(), nn.Dropout(), nn.Identity(), nn.ReLU(), nn.Dropout())
    graph = trace(model, torch.randn(3, 4))
    _, producer, dropout, identity, relu, last = graph.events
    assert list(effective_consumers(graph, producer)) == [relu]
    assert list(effective_consumers(graph, relu)) == []
    assert effective_source(identity) is effective_source(dropout) is producer
    assert effective_source(producer) is producer
    assert effective_source(last) is relu


@pytest.mark.parametrize(
    ("skip", "unchanged"),
    [([], True), ([nn.Dropout()], True), ([linear()], False)],
    ids=["x", "dropout", "g"],
)
def test_only_a_skip_that_keeps_x_is_an_identity(skip, unchanged):
    graph = trace(nn.Sequential(linear(), Block([linear(), nn.ReLU()], skip=skip)), torch.randn(3, 4))
    (residual,) = graph.residuals
    assert residual.start.path == "0"
    assert identity_skips(graph, residual.start) == (frozenset({residual.add}) if unchanged else frozenset())
    assert identity_skips(graph, residual.add) == frozenset()


def test_a_block_is_found_by_its_addition():
    graph = trace(nn.Sequential(Block([linear()]), Block([nn.ReLU()])), torch.randn(3, 4))
    first, second = graph.residuals
    assert closed_by(graph, [second.add]) is second
    assert closed_by(graph, [second.add, first.add]) is first
    assert closed_by(graph, graph.having("activation")) is None


def test_the_ends_of_branches_are_what_no_other_starts_from():
    class Sum(nn.Module):
        def __init__(self, skip):
            super().__init__()
            self.stem, self.skip, self.branch = linear(), skip, linear()

        def forward(self, x):
            x = self.stem(x)
            return self.skip(x) + self.branch(x)

    for skip in (nn.Identity(), nn.Sequential(), nn.Dropout()):
        graph = trace(Sum(skip))
        assert [end.path for end in branch_ends(graph, graph.events[-1])] == ["branch"]
    graph = trace(Sum(linear()))
    assert [end.path for end in branch_ends(graph, graph.events[-1])] == ["skip", "branch"]


def test_a_skip_may_start_behind_what_passes_on():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.drop, self.branch = nn.ReLU(), nn.Dropout(), linear()

        def forward(self, x):
            x = self.drop(self.act(x))
            return x + self.branch(x)

    graph = trace(Dropped())
    assert (
        identity_skips(graph, graph.events[1]) == {graph.events[-1]} == identity_skips(graph, graph.events[2])
    )
    assert not identity_skips(graph, graph.events[0])
