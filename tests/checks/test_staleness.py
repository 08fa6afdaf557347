"""Stale statistics are those that are off and cost something; NS404 and NS308 have the cases."""

from __future__ import annotations

from tests.checks.networks import mlp, trained, vectors
from torch.nn import functional as F

from normsmith.checks import Context
from normsmith.checks.staleness import staleness


def context(off: float) -> Context:
    model = trained(mlp(), vectors())
    model[1].running_mean.add_(off)
    return Context(model, vectors(), F.cross_entropy)


def test_it_names_norms_and_the_cost():
    found = staleness(context(3.0))
    assert [norm.path for norm in found.shifts] == ["1"]
    assert found.cost.startswith("loss")


def test_what_fits_is_not_stale():
    assert staleness(context(0.0)) is None
