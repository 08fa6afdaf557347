"""Who takes a result beyond what passes it on, and the norms that are there already."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.small import Net
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy import trace
from normsmith.anatomy.passing import (
    effective_consumers,
    effective_source,
    moves,
    norm_after,
    norm_before,
    passed_by,
)


def body(net, x):
    h = net.conv(x)
    pooled = F.adaptive_avg_pool2d(net.drop(h), 1).flatten(1)
    return net.head(pooled), h.relu()


def graph():
    model = Net(body, conv=nn.Conv2d(3, 4, 1), drop=nn.Dropout(), head=nn.Linear(4, 2))
    return trace(model, torch.randn(2, 3, 5, 5))


def test_who_takes_a_result_and_whose_it_is():
    traced = graph()
    conv, head = traced.having("producer")
    assert [event.name for event in effective_consumers(traced, conv)] == ["Linear", "relu"]
    assert effective_source(head.sources[0]) is conv
    assert [e.name for e in passed_by(head.sources[0])] == [
        "flatten",
        "adaptive_avg_pool2d",
        "Dropout",
        "Conv2d",
    ]
    assert passed_by(conv) == (conv,)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x,
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.transpose(2, 3).contiguous(),
        lambda x: F.dropout(x.permute(0, 1, 3, 2)),
        lambda x: x[:, :, 1:],
    ],
)
def test_a_norm_is_found_through_what_moves_values(between):
    model = Net(
        lambda net, x: net.end(between(net.norm(between(net.conv(x))))),
        conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), end=nn.Conv2d(4, 1, 1),
    )  # fmt: skip
    traced = trace(model, torch.randn(2, 3, 5, 5))
    (norm,), (conv, end) = traced.having("norm"), traced.having("producer")
    assert norm_after(traced, conv) is norm
    assert norm_before(end.sources[0]) is norm
    assert norm_after(traced, norm) is None
    assert norm_before(norm.sources[0]) is None


def test_what_moves_values():
    traced = trace(
        Net(lambda net, x: net.end(x.movedim(1, -1)).relu(), end=nn.Linear(3, 2)), torch.randn(2, 3, 5)
    )
    assert [moves(event) for event in traced.events] == [False, True, False, False]
