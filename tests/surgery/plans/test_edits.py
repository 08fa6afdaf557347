"""Each edit does and undoes one step, knows when it can, and leaves nothing behind when it fails."""

import pytest
import torch
from tests.surgery.small import normed
from tests.surgery.states import state_of
from torch import nn

from normsmith.surgery.placement.sequential import Rearrangement
from normsmith.surgery.plans.edits import AttributeEdit, BufferEdit, Edit, ModuleEdit, ParameterEdit


def edits() -> list[tuple[nn.Module, Edit]]:
    model = normed()
    children = Rearrangement(model)
    children.remove("1")
    return [
        (model, ModuleEdit(((model, "2"),), model[2], nn.Tanh())),
        (model, children),
        (model, ParameterEdit(model[0], "bias", model[0].bias, None)),
        (model, BufferEdit(model[1], "running_mean", torch.ones(8))),
        (model, AttributeEdit(model[1], "momentum", 0.5)),
        (model, AttributeEdit(model[1].weight, "requires_grad", False)),
    ]


@pytest.mark.parametrize("index", range(6))
def test_an_edit_does_and_undoes(index):
    model, edit = edits()[index]
    before = state_of(model)
    assert edit.is_possible()
    edit.do()
    assert state_of(model) != before
    assert edit.is_undoable()
    assert not edit.is_possible()
    edit.undo()
    assert state_of(model) == before
