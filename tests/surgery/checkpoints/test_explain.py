"""Why nothing fits, in one line that names the nearest and the option that helps."""

from pathlib import Path

import pytest
import torch
from tests.surgery.checkpoints.networks import network, prefixed
from torch import nn

from normsmith.errors import InputError
from normsmith.surgery.checkpoints.choose import choose
from normsmith.surgery.checkpoints.explain import shown

STATE = network(1).state_dict()


def refusal(content, model=None, **options):
    options = {"key": None, "prefix": None, "strict": True, **options}
    with pytest.raises(InputError) as refused:
        choose(model or network(), content, Path("a.pt"), **options)
    assert len(str(refused.value)) < 500
    return str(refused.value)


def test_the_nearest_of_several_is_compared():
    near = {name: value for name, value in STATE.items() if name != "3.bias"} | {"head.bias": torch.ones(2)}
    said = refusal({"optimum": nn.Linear(2, 2).state_dict(), "net": prefixed("module.", near)})
    assert said == (
        "a.pt: expected weights of Sequential (looked at net; --key takes another, of optimum): 1 key missing "
        "(3.bias); 1 key not of this model (module.head.bias)"
    )


def test_a_part_of_another_state_dict_is_named_with_both():
    said = refusal({"epoch": 1, "net": prefixed("encoder.", STATE)})
    assert said == (
        "a.pt: expected weights of Sequential, got them as a part of another network, under encoder. (of the state "
        "dict net); take that part with --prefix encoder."
    )


def test_folded_networks_are_recognised():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    folded = {name: value for name, value in model.state_dict().items() if name[0] in "02"}
    assert "it holds nothing of 2 batch norms" in refusal(folded, model)
    assert "from before that" in refusal(folded, model)


def test_a_network_of_another_kind_is_not_called_folded():
    assert "folded" not in refusal({"0.weight": torch.ones(16, 6), "1.weight": torch.ones(16)})


def test_long_lists_are_cut():
    said = refusal({f"layer{number}.weight": torch.ones(1) for number in range(100)})
    assert "8 keys missing" in said
    assert "100 keys not of this model" in said
    assert "and 95 more" in said


def test_what_was_read_is_shown_in_a_few_words():
    assert shown({"a": 1, 2: 3}) == "a dict of 'a', 2 (int)"
    assert shown([1]) == "a list"
