"""Which channels are chosen, by share and by size."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.operations.prune.networks import chain, lived_in
from tests.surgery.operations.prune.test_channels import channels_of

from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.surgery.operations.prune.choice import choose


def model_with(first, second):
    model = lived_in(chain())
    model[1].weight.data = torch.tensor(first).double()
    model[4].weight.data = torch.tensor(second).double()
    return model


def chosen(model, **options):
    norms = {path: read_batch_norm(model.get_submodule(path)) for path in ("1", "4")}
    given = {"share": None, "below": None, "allow_rough": False} | options
    return choose(
        channels_of(model),
        norms,
        list(norms),
        given["share"],
        given["below"],
        allow_rough=given["allow_rough"],
    )


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ({"below": 0.25}, {"1": [1, 2], "4": [5]}),
        ({"below": 0.2}, {"1": [1]}),  # smaller, not as small
        ({"below": 0.01}, {}),
        ({"share": 0.15}, {"1": [1, 2]}),  # 2 of 14
        ({"share": 3 / 14}, {"1": [1, 2], "4": [5]}),
    ],
)
def test_the_smallest_go_in_the_whole_network(options, removed):
    model = model_with([1, -0.1, 0.2, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, -0.21])
    assert chosen(model, **options).removed == removed


def test_of_a_layer_that_would_lose_all_the_largest_stays():
    model = model_with([0.1, 0.2, 0.3, 0.25, 0.1, 0.1, 0.1, 0.1], [1.0] * 6)
    choice = chosen(model, below=0.5)
    assert choice.removed == {"1": [0, 1, 3, 4, 5, 6, 7]}
    assert [remark.reason for remark in choice.kept] == [
        "would lose all of its channels: the one with the largest |γ| stays"
    ]
