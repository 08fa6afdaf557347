"""Poolings that are written as reductions, read from the arguments of a call."""

from __future__ import annotations

import pytest
import torch

from normsmith.anatomy.pooling import Pooling, pooling_of

X = torch.ones(1)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "expected"),
    [
        ("mean", (X, (2, 3)), {}, Pooling((2, 3))),
        ("mean", (X, [2, 3], True), {}, Pooling((2, 3), keeps=True)),
        ("mean", (X,), {"axis": -1, "keepdims": True}, Pooling((-1,), keeps=True)),
        ("amax", (X,), {"dim": -1}, Pooling((-1,))),
        ("sum", (X, 1, False), {}, Pooling((1,))),
        ("max", (X, 2), {}, Pooling((2,))),
        ("max", (X, X), {}, None),
        ("mean", (X,), {}, None),
        ("sum", (X, ()), {}, None),
        ("mean", (X, X), {}, None),
        ("softmax", (X, 1), {}, None),
    ],
)
def test_the_dimensions_of_a_reduction(name, args, kwargs, expected):
    assert pooling_of(name, args, kwargs) == expected


@pytest.mark.parametrize(
    ("dimensions", "keeps", "shape"), [((-1, 2), False, (2, 3)), ((1,), True, (2, 1, 4, 5))]
)
def test_they_are_counted_as_torch_counts_them(dimensions, keeps, shape):
    pooling = Pooling(dimensions, keeps)
    assert torch.ones(2, 3, 4, 5).mean(dimensions, keeps).shape == shape
    assert pooling.rank_after(4) == len(shape)
    assert pooling.of(4) == {dimension % 4 for dimension in dimensions}
