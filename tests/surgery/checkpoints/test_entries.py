"""What a checkpoint is made of: state dicts at any depth, optimizers, and the rest."""

import torch

from normsmith.surgery.checkpoints.entries import name_of, optimizers, replaced, state_dicts, without

WEIGHTS = {"0.weight": torch.ones(2), "0.bias": torch.ones(2)}
ADAM = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]}
CONTENT = {
    "state_dict": WEIGHTS,
    "ema": {"shadow": WEIGHTS, "decay": 0.9},
    "optimizer": ADAM,
    "optimizers": {"critic": ADAM, "list": [ADAM, ADAM]},
    "rng": {"cpu": torch.zeros(3, dtype=torch.uint8)},
    "callbacks": {"best": {"score": torch.tensor(0.5)}},
    "by_number": {0: torch.ones(2)},
    "epoch": 3,
}


def test_state_dicts_are_those_that_hold_weights_by_name():
    assert [state.keys for state in state_dicts(CONTENT)] == [("state_dict",), ("ema", "shadow")]
    assert [state.keys for state in state_dicts(WEIGHTS)] == [()]
    assert state_dicts([1]) == state_dicts(ADAM) == []


def test_optimizers_are_known_by_their_form():
    assert [name_of(keys) for keys in optimizers(CONTENT)] == [
        "optimizer",
        "optimizers.critic",
        "optimizers.list",
    ]
    assert optimizers(ADAM) == [()]


def test_changes_copy_only_the_way_to_them():
    changed = replaced(CONTENT, ("ema", "shadow"), lambda state: {**state, "new": 1})
    assert changed["ema"]["shadow"].keys() == {*WEIGHTS, "new"}
    assert CONTENT["ema"]["shadow"] is WEIGHTS
    assert changed["state_dict"] is WEIGHTS
    less = without(CONTENT, ("optimizers", "critic"))
    assert less["optimizers"].keys() == {"list"}
    assert CONTENT["optimizers"].keys() == {"critic", "list"}
