"""A difference in float32 is decided in float64: rounding passes, an error does not, and the report says which."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import SurgeryError
from normsmith.surgery import Expectation, fold, swap_activation


class Sensitive(nn.Module):
    """Makes much of the last digits of its input."""

    def forward(self, x):
        return torch.sin(1e4 * x)


class InFloat32(nn.Module):
    """A module that refuses float64."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        if x.dtype == torch.float64:
            raise TypeError("expected float32")
        return self.layer(x)


def sensitive(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), Sensitive(), *more)
    for _ in range(3):
        model[1](model[0](torch.randn(64, 4)))
    return model.eval()


BATCH = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def test_rounding_in_float32_is_no_error():
    model = sensitive()
    before = state_of(model)
    result = fold(model).verify(BATCH)
    assert result.precision == "float64"
    assert result.evaluation < 1e-9
    own, difference = result.rounding
    assert own == "float32"
    assert difference > 1e-4
    first, last = str(result).splitlines()
    assert first.endswith("in float64")
    assert last.startswith("decided in float64: the difference of ")
    assert last.endswith(" in float32 is rounding")
    assert state_of(model) == before
    assert all(tensor.dtype != torch.float64 for tensor in model.state_dict().values())


def test_where_float32_is_enough_it_decides():
    model = sensitive()[:2]
    result = fold(model).verify(BATCH)
    assert (result.precision, result.rounding) == ("float32", None)
    assert str(result).endswith("in float32")


def test_an_error_is_one_in_float64_too():
    plan = swap_activation(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "tanh")
    plan.expects = Expectation("same")
    with pytest.raises(
        SurgeryError, match=r"got a difference of [\d.]+ in float32, and of [\d.]+ in float64"
    ):
        plan.verify(BATCH)


@pytest.mark.parametrize(
    ("more", "forward", "reason"),
    [
        ((InFloat32(),), None, r"not tried in float64, .*TypeError: expected float32"),
        ((), lambda model, x: model(x).float(), "not tried in float64, outputs stay float32"),
        ((), lambda model, x: model(x + torch.zeros(4, dtype=model[0].weight.dtype).float()), None),
    ],
    ids=["a module refuses", "outputs are cast", "promoted"],
)
def test_where_float64_cannot_be_tried_float32_decides(more, forward, reason):
    options = {} if forward is None else {"forward": forward}
    plan = fold(sensitive(*more), BATCH)
    if reason is None:
        assert plan.verify(BATCH, **options).precision == "float64"
        return
    with pytest.raises(SurgeryError, match=rf"in float32, which decided: {reason}"):
        plan.verify(BATCH, **options)


def test_a_copy_that_cannot_be_made_is_said():
    model = sensitive()
    model[2].lock = (value for value in ())  # generators cannot be copied
    with pytest.raises(SurgeryError, match=r"not tried in float64, .*cannot be copied"):
        fold(model).verify(BATCH)


def test_a_device_without_float64_leaves_the_verdict_to_float32(monkeypatch):
    monkeypatch.setattr("normsmith.surgery.plans.in_float64.has_float64", lambda device: device.type != "cpu")
    with pytest.raises(SurgeryError, match="not tried in float64, cpu has no float64"):
        fold(sensitive()).verify(BATCH)


def test_values_that_are_not_finite_are_not_rounding():
    plan = swap_activation(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "tanh")
    plan.expects = Expectation("same")
    plan.model[0].bias.data[1] = float("inf")
    with pytest.raises(SurgeryError, match=r"got a difference of inf$"):
        plan.verify(BATCH)
