"""Verification: what is not as expected is said, and the model is as before."""

import pytest
import torch
from tests.surgery.small import BATCH, normed, plain
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError
from normsmith.surgery import Expectation, Plan, convert, swap_activation


def lying(model: nn.Module, **expects: str) -> Plan:
    plan = swap_activation(model, "tanh")
    plan.expects = Expectation(**expects)
    return plan


def test_verification_finds_what_is_not_as_expected():
    model = plain()
    frozen = lying(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), evaluation="differs")
    before = state_of(model)
    with pytest.raises(SurgeryError, match=r"in evaluation: expected the outputs as before, to 0.0001"):
        lying(model, evaluation="same").verify(BATCH)
    with pytest.raises(SurgeryError, match=r"in training: expected the outputs as before"):
        lying(model, training="same").verify(BATCH)
    found = lying(model, evaluation="differs", training="differs").verify((BATCH, None))
    assert found.evaluation > 1e-3
    assert found.training == found.evaluation
    assert "expected differs" in str(found)
    with pytest.raises(SurgeryError, match="got the same to the last bit"):
        frozen.verify(torch.zeros(3, 4))
    assert state_of(model) == before


def test_verification_names_what_the_batch_did_not_reach():
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.one(x) if x.shape[0] > 1 else self.other(x)

    assert convert(Either(), to="batch").verify(BATCH).unreached == ("other",)


def test_verification_of_failing_forwards_and_applied_plans():
    model = normed()
    before = state_of(model)
    plan = convert(model, to="batch")
    with pytest.raises(
        SurgeryError, match="a forward in evaluation, before the change, failed on this batch"
    ):
        plan.verify(torch.ones(3, 5))
    with pytest.raises(SurgeryError, match="a forward in training, before the change, failed"):
        plan.verify(torch.ones(1, 4))
    with pytest.raises(SurgeryError, match="got none; give forward="):
        plan.verify(BATCH, forward=lambda *_: None)
    assert state_of(model) == before
    assert plan.verify({"x": BATCH}, forward=lambda model, batch: model(batch["x"])).unreached == ()
    plan.apply()
    with pytest.raises(SurgeryError, match="applied already"):
        plan.verify(BATCH)


def test_verification_restores_what_a_forward_leaves_behind():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.history = nn.BatchNorm1d(4), [1]

        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            self.history.append(torch.rand(()))
            return self.norm(x)

    model = Counting()
    model.norm.weight.grad = torch.ones(4)
    before = state_of(model)
    convert(model, to="batch").verify(BATCH)
    assert state_of(model) == before
    assert model.history == [1]
    with pytest.raises(RuntimeError), preserved(model):
        model.train()(torch.ones(2, 5))
    assert state_of(model) == before
