"""What a user handed over, and the facts made of it."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import cnn, images, mlp, vectors
from torch import nn

from normsmith.checks import Context, UnavailableError
from normsmith.checks.context import fact, pair


def test_a_fact_is_made_once_and_so_is_its_absence():
    class Some:
        made = 0

        @fact
        def value(self) -> int:
            """A number."""
            Some.made += 1
            return 3

        @fact
        def missing(self) -> int:
            Some.made += 1
            raise UnavailableError("none today")

    some = Some()
    assert some.value == some.value == 3
    for _ in range(2):
        with pytest.raises(UnavailableError, match="none today"):
            _ = some.missing
    assert Some.made == 2
    assert Some.value.__doc__ == "A number."


def test_batches_are_measured_and_held_back():
    many, few = Context(mlp(), vectors(16)), Context(mlp(), vectors(4))
    assert (len(many.measured), len(many.held_back)) == (10, 6)
    assert (len(few.measured), len(few.held_back)) == (4, 4)


def test_values_per_channel_are_samples_times_positions():
    context = Context(cnn(), images(1, size=4))
    assert [context.values_per_channel(norm) for norm in context.norms] == [4 * 64, 4 * 16]
    without_data = Context(cnn())
    assert without_data.values_per_channel(without_data.norms[0]) is None


def test_a_forward_that_cannot_be_followed_is_explained():
    class Dynamic(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnavailableError, match=r"cannot be followed: .*give a batch"):
        _ = Context(Dynamic()).graph
    assert Context(Dynamic(), [torch.ones(2)]).graph.followed == "forward"


def test_at_level_fast_data_serve_only_where_nothing_else_does():
    fast = {"looks_at_data": False}
    assert Context(mlp(), vectors(1), **fast).graph.followed == "symbols"

    class Dynamic(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert Context(Dynamic(), [torch.ones(2)], **fast).graph.followed == "forward"


def test_the_usual_forward_knows_targets():
    x, y = vectors(1)[0]
    assert pair(nn.Identity(), (x, y))[1] is y
    assert pair(nn.Identity(), x)[1] is None
    assert pair(nn.Identity(), (x,))[1] is None


def test_recalibration_needs_batches():
    assert not Context(mlp()).recalibration().can_be_applied
    fix = Context(mlp(), vectors(2)).recalibration()
    assert fix.can_be_applied
    assert fix.measures


def test_a_forward_is_followed_with_two_samples_where_it_can_be():
    seen = []

    class Sees(nn.Module):
        def __init__(self, least):
            super().__init__()
            self.norm, self.least = nn.BatchNorm1d(8), least

        def forward(self, x):
            seen.append(len(x))
            if len(x) < self.least:
                raise ValueError("too few")
            return self.norm(x)

    for least, samples in ((1, [2]), (5, [2, 32])):
        seen.clear()
        context = Context(Sees(least), vectors(1))
        assert context.values_per_channel(context.norms[0]) == 32
        assert seen == samples
