"""A plan is tried before it is given away: other outputs where it says exact are an error, and nothing is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.surgery.operations.prune.networks import chain, lived_in
from tests.surgery.states import state_of

from normsmith.anatomy.forward import call
from normsmith.anatomy.remark import Remark
from normsmith.errors import SurgeryError
from normsmith.surgery import prune
from normsmith.surgery.operations.prune.trial import try_on

X = torch.randn(2, 3, 9, 9, dtype=torch.float64)


def test_a_wrong_plan_is_an_error_unless_it_says_that_it_is_approximate():
    model = lived_in(chain())
    plan = prune(model, X, share=0.4)
    removed = plan.operation.arguments["removed"]
    before = state_of(model)
    others = {"1": [7]}  # not what the plan removes
    with pytest.raises(SurgeryError, match="in evaluation, γ = 0: expected the outputs as before"):
        try_on(plan, others, X, call)
    try_on(replace(plan, warnings=(Remark("3", "approximate"),)), others, X, call)
    try_on(plan, removed, X, call)
    assert state_of(model) == before
