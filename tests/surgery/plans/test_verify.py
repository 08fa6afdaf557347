"""Verification: what is not as expected is said, and the model is as before."""

import random

import numpy as np
import pytest
import torch
from tests.surgery.small import BATCH, normed, plain
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError
from normsmith.surgery import Expectation, Plan, Verification, convert, swap_activation
from normsmith.surgery.plans.verify import compare


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
    assert "the outputs change" in str(found)
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


# The comparison by itself.


def values(*numbers: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


def test_the_difference_is_a_share_of_the_largest_output_before():
    before, after = values(100.0, 1.0, dtype=torch.float64), values(100.0, 3.0, dtype=torch.float64)
    assert compare([before], [after], "may differ", "evaluation", None) == pytest.approx(0.02)
    assert compare([after], [before], "differs", "evaluation", None) == pytest.approx(0.02)
    two = compare([before, values(1.0)], [before, values(1.5)], "may differ", "evaluation", None)
    assert two == 0.5  # the largest of all outputs


@pytest.mark.parametrize(
    ("dtype", "fits", "does_not"),
    [
        pytest.param(torch.float64, 5e-10, 2e-9, id="float64: 1e-9"),
        pytest.param(torch.float32, 5e-5, 2e-4, id="float32: 1e-4"),
        pytest.param(torch.bfloat16, 2**-6, 2**-4, id="half precision: 3e-2"),
        pytest.param(torch.float16, 2**-6, 2**-4, id="half precision: 3e-2, float16"),
    ],
)
def test_each_dtype_has_its_tolerance(dtype, fits, does_not):
    before = values(1.0, -0.5, dtype=dtype)
    difference = compare([before], [values(1.0 + fits, -0.5, dtype=dtype)], "same", "training", None)
    assert difference == pytest.approx(fits, rel=0.01)
    with pytest.raises(SurgeryError, match=r"in training: expected the outputs as before"):
        compare([before], [values(1.0 + does_not, -0.5, dtype=dtype)], "same", "training", None)


def test_the_coarsest_output_gives_the_tolerance():
    before = [values(1.0, dtype=torch.float64), values(1.0, dtype=torch.float16)]
    after = [values(1.01, dtype=torch.float64), values(1.0, dtype=torch.float16)]
    assert compare(before, after, "same", "evaluation", None) == pytest.approx(0.01)
    with pytest.raises(SurgeryError, match="1e-09"):
        compare(before[:1], after[:1], "same", "evaluation", None)


def test_a_tolerance_of_ones_own():
    before, after = [values(1.0)], [values(1.5)]
    assert compare(before, after, "same", "evaluation", 0.5) == 0.5
    with pytest.raises(SurgeryError, match="to 0 of the largest"):
        compare(before, [values(1.0 + 2**-23)], "same", "evaluation", 0.0)


def test_the_last_bit_counts_as_different():
    assert compare([values(1.0)], [values(1.0 + 2**-23)], "differs", "evaluation", None) > 0
    with pytest.raises(SurgeryError, match="got the same to the last bit"):
        compare([values(1.0, 2.0)], [values(1.0, 2.0)], "differs", "evaluation", None)


NAN, INF = float("nan"), float("inf")


def test_values_that_are_not_finite():
    assert compare([values(NAN, 1.0)], [values(NAN, 1.0)], "same", "evaluation", None) == 0
    assert compare([values(NAN, INF)], [values(NAN, INF)], "same", "evaluation", None) == 0
    for after in (values(1.0, NAN), values(1.0, INF)):
        with pytest.raises(SurgeryError, match="got a difference of inf"):
            compare([values(1.0, 1.0)], [after], "same", "evaluation", None)
        assert compare([values(1.0, 1.0)], [after], "differs", "evaluation", None) == INF
    for after in (values(1.0, -INF), values(1.0, NAN)):
        assert compare([values(1.0, INF)], [after], "differs", "evaluation", None) == INF


def test_outputs_of_zeros_and_of_nothing():
    nothing = torch.empty(0, 3)
    assert compare([torch.zeros(2), nothing], [torch.zeros(2), nothing], "same", "evaluation", None) == 0
    with pytest.raises(SurgeryError, match="expected the outputs as before"):
        compare([torch.zeros(2)], [torch.full((2,), 1e-6)], "same", "evaluation", None)


@pytest.mark.parametrize(
    "after",
    [[torch.zeros(2, 3), torch.zeros(1)], [torch.zeros(3, 2)], []],
    ids=["one more", "turned", "none"],
)
def test_outputs_of_other_shapes_are_said_whatever_is_expected(after):
    for expected in ("same", "may differ", "differs"):
        with pytest.raises(SurgeryError, match=r"expected outputs of shapes \[\(2, 3\)\], got"):
            compare([torch.zeros(2, 3)], after, expected, "evaluation", None)


def test_the_training_mode_is_tried_only_where_something_is_expected_of_it():
    calls = []

    def forward(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        calls.append(model.training)
        return model(batch)

    assert lying(plain(), evaluation="differs").verify(BATCH, forward=forward).training is None
    assert calls == [False, False]
    calls.clear()
    lying(plain(), evaluation="differs", training="differs").verify(BATCH, forward=forward)
    assert calls == [False, True, False, True]


def test_a_verification_is_printed_in_rows():
    assert str(Verification(Expectation("same", "may differ"), 2e-7, None)).splitlines() == [
        "evaluation: the outputs stay the same; largest difference 2e−07 in float32"
    ]
    assert str(Verification(Expectation("same", "differs"), 0.0, 0.25, ("1.norm",))).splitlines() == [
        "evaluation: the outputs stay the same; largest difference 0 in float32",
        "training: the outputs change; largest difference 0.25 in float32",
        "not reached by this batch: 1.norm",
    ]


def test_random_numbers_of_python_and_numpy_are_the_same_before_and_after():
    class Masked(nn.Module):
        """As speech models mask spans of time in training, with numpy's random numbers."""

        def __init__(self):
            super().__init__()
            self.net = plain()

        def forward(self, x):
            return self.net(x) * (np.random.rand() + random.random() if self.training else 1.0)

    plan = convert(nn.Sequential(Masked(), nn.BatchNorm1d(2)), "batch")
    assert plan.changes
    assert plan.verify(BATCH).training == pytest.approx(0, abs=1e-5)
