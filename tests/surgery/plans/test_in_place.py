"""A change after which something is overwritten that others need does not pass verification."""

import pytest
import torch
from tests.surgery.hostile import HOSTILE, batch
from torch import nn

from normsmith import surgery
from normsmith.errors import SurgeryError
from normsmith.surgery.operations.strip import build
from normsmith.surgery.plans.in_place import nothing_in_place

OVERWRITTEN_BY_A_LAYER = {
    "pre-activation",
    "pre-activation in a Sequential",
    "slice assigned",
    "dropout in place",
}


def test_layers_write_in_place_again_after_the_block():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.ReLU(), nn.Dropout(inplace=True))

    def interrupted():
        with nothing_in_place(model) as some:
            assert some
            assert not any(layer.inplace for layer in model)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert [layer.inplace for layer in model] == [True, False, True]
    with nothing_in_place(model[1]) as some:
        assert not some


@pytest.mark.parametrize("name", HOSTILE)
def test_plans_pass_and_those_without_their_copies_do_not(name):
    model, _ = HOSTILE[name].pair()
    model.eval()
    plan = surgery.strip(model, batch=batch())
    plan.verify(batch())
    careless = build(model, **(dict(plan.operation.arguments) | {"copies": []}))
    if name in OVERWRITTEN_BY_A_LAYER:
        with pytest.raises(
            SurgeryError, match=r"in evaluation: .* a layer overwrites in place what others need"
        ):
            careless.verify(batch())
    else:
        careless.verify(batch())  # nothing is overwritten, or by code and not by a layer
    assert isinstance(model.get_submodule("act") if hasattr(model, "act") else model.branch[1], nn.ReLU)


def test_the_batch_stays_as_it_is():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = batch()
    surgery.insert(model, "layer", only="2").verify({"input": x})
    assert torch.equal(x, batch())
