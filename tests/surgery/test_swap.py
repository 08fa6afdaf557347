"""Swapping activations: hidden ones only, and none that would lose something."""

import pytest
from tests.surgery.small import mlp
from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import swap_activation


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)])
def test_swap_changes_hidden_activations_only(name, kind):
    model = nn.Sequential(*mlp(nn.GELU), nn.Sigmoid())
    plan = swap_activation(model, name)
    plan.apply()
    assert type(model[1]) is kind
    assert type(model[3]) is kind
    assert type(model[5]) is nn.Sigmoid
    assert [remark.path for remark in plan.kept] == ["5"]


def test_swap_to_the_same_keeps_the_module():
    model = mlp()
    first = model[1]
    swap_activation(model, "relu").apply()
    assert model[1] is first


def test_swap_refuses_to_lose_hooks():
    model = mlp()
    model[1].register_forward_hook(lambda *_: None)
    plan = swap_activation(model, "tanh")
    with pytest.raises(SurgeryError, match="1: ReLU has hooks"):
        plan.apply()
    assert type(model[3]) is nn.ReLU


def test_swap_refuses_another_name_and_a_model_without_activations():
    with pytest.raises(InputError, match="one of relu, tanh, sigmoid"):
        swap_activation(mlp(), "gelu")
    with pytest.raises(SurgeryError, match="found no activation"):
        swap_activation(nn.Sequential(nn.Linear(2, 2)), "relu")
