"""Functions for all norms of a model say what they were given where it is no model."""

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.models import check_model

FUNCTIONS = {
    "freeze": ours.freeze,
    "unfreeze": ours.unfreeze,
    "join_ranks": ours.join_ranks,
    "without_a_trace": lambda model: ours.without_a_trace(model).__enter__(),
    "accumulate": lambda model: ours.accumulate(model).__enter__(),
    "use_mask": lambda model: ours.use_mask(model, None).__enter__(),
}


@pytest.mark.compiles  # where the types of arguments are checked, that check comes first
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "<class 'NoneType'>"),
        ([ours.BatchNorm1d(3)], "<class 'list'>"),
        ({"0.weight": torch.ones(3)}, "<class 'dict'>"),
        (ours.BatchNorm1d, "<class 'normsmith.layers.batch_norm.BatchNorm1d'>"),
    ],
)
def test_what_is_no_model_is_named(name, given, said):
    with pytest.raises(InputError, match=f"^{name}: expected an nn.Module, got {said}$"):
        FUNCTIONS[name](given)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_layers_of_a_model_that_was_scripted_are_in_their_places():
    net = nn.Sequential(norm := ours.BatchNorm1d(3)).eval()
    torch.jit.script(net)
    check_model(net, "here")
    assert net[0] is norm


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_scripted_model_is_no_model_in_python(name):
    scripted = torch.jit.script(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(
        InputError, match=f"^{name}: expected a model in Python, got a scripted one; give the model"
    ):
        FUNCTIONS[name](scripted)
