"""What is wrong with another library's state is said, and how its entries are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.layers.interop.saved import read, sbx

from normsmith.errors import InputError
from normsmith.layers.interop import from_keras, from_sb3, from_sbx, from_torchrl
from normsmith.layers.interop._entries import Entries


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


SB3 = read("sb3_contrib")
KERAS = read("keras")["keras 3"]


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda: from_sb3(without(SB3, "ra_var")), "missing: ra_var; unknown: nothing"),
        (lambda: from_sb3(SB3 | {"running_mean": [0.0]}), "missing: nothing; unknown: running_mean"),
        (lambda: from_sb3(read("torchrl")), r"give the state of one layer, by prefix=.*critic"),
        (lambda: from_sb3(SB3, prefix="critic."), "below the prefix 'critic.'; missing: bias"),
        (lambda: from_sb3(SB3 | {"ra_mean": [0.0]}), r"ra_var of shape \(1,\), got \(3,\)"),
        (lambda: from_sb3(SB3 | {"ra_var": [-1.0, 1.0, 1.0]}), "expected ra_var ≥ 0, got a smallest of -1"),
        (lambda: from_sb3(SB3 | {"ra_mean": [0.0, np.nan, 1.0]}), r"finite values in ra_mean.*\[1\]"),
        (lambda: from_sb3(SB3 | {"steps": [1, 2]}), "steps to be one number"),
        (lambda: from_sb3(SB3 | {"steps": -4}), "count of steps, got -4"),
        (lambda: from_sb3(SB3, r_max=0.5), "r_max ≥ 1"),
        (
            lambda: from_sbx(sbx("params"), sbx("batch_stats")),
            r"mean of shape \(channels,\), got \(2, 3\); choose one of",
        ),
        (lambda: from_sbx(sbx("params"), sbx("batch_stats"), member=2), "member 2, got shape"),
        (lambda: from_sbx(sbx("batch_stats"), sbx("batch_stats")), "in both"),
        (lambda: from_sbx({}, {"mean": [1.0]}), "missing: d_max, r_max, steps, var"),
        (lambda: from_torchrl(read("torchrl")), "unknown: critic.0.bias"),
        (lambda: from_keras(without(KERAS, "renorm_mean")), "missing: renorm_mean"),
        (lambda: from_keras(KERAS | {"kernel": [1.0]}), "unknown: kernel"),
        (lambda: from_keras(KERAS | {"renorm_stddev": [1.0]}), r"renorm_stddev of shape \(3,\), got \(1,\)"),
    ],
)
def test_what_is_wrong_with_a_state_is_said(load, said):
    with pytest.raises(InputError, match=said):
        load()


def test_entries_of_a_prefix_are_read_as_float32_or_wider():
    state = {"a.mean": [1, 2], "a.var": np.array([1.0, 4.0]), "b.mean": [0.0]}
    entries = Entries("elsewhere", state, "a.")
    assert entries.if_there("mean") == "mean"
    assert entries.if_there("bias") is None
    assert (entries.vector("mean").dtype, entries.vector("var").dtype) == (torch.float32, torch.float64)
    read_state = entries.state("mean", "var", None, None, None)
    assert read_state.keys() == {"running_mean", "running_var", "num_batches_tracked"}


def test_an_entry_is_a_copy():
    mean = torch.ones(3)
    entry = Entries("elsewhere", {"mean": mean}, "").vector("mean")
    mean.fill_(7)
    assert entry.tolist() == [1, 1, 1]


def test_of_weight_and_bias_alone_the_other_is_the_identity():
    entries = Entries("elsewhere", {"mean": [0.0, 0.0], "var": [1.0, 1.0], "shift": [2.0, 3.0]}, "")
    state = entries.state("mean", "var", None, None, "shift")
    assert state["weight"].tolist() == [1, 1]
    assert state["bias"].tolist() == [2, 3]
