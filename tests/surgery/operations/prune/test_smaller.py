"""What a smaller model says of itself: the layers that change, parameters and multiply-adds."""

from __future__ import annotations

import torch
from tests.surgery.operations.prune.networks import chain, lived_in
from tests.surgery.operations.prune.test_channels import channels_of

from normsmith.surgery.operations.prune.smaller import changes_of, savings_of


def test_changes_name_every_layer_that_loses_something():
    model = lived_in(chain())
    channels = channels_of(model)
    gone = {channels.root(channels.norms["4"][2])}
    rows = [
        (change.path, change.before, change.after, change.why) for change in changes_of(model, channels, gone)
    ]
    assert rows == [
        ("3", "Conv2d(8, 6)", "Conv2d(8, 5)", "|γ| is small"),
        ("8", "Linear(24, 5)", "Linear(20, 5)", "act(β) of its inputs goes into its bias"),
        ("4", "6 channels", "5 channels", "|γ| is small"),
    ]


def test_savings_count_new_biases():
    model = lived_in(chain())
    channels = channels_of(model)
    gone = {channels.root(channels.norms["1"][0])}
    before = sum(p.numel() for p in model.parameters())
    # a row of 27 weights with its bias, γ and β, and a column of 54; there are 6 new biases
    after = before - 28 - 2 - 54 + 6
    assert savings_of(model, channels, gone, {"3": 10}) == (
        f"parameters {before} → {after}, multiply-adds 4,320 → 3,780"
    )
    assert torch.is_tensor(model[0].weight)
