"""What is written down of forwards and of the calls of norms."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import mlp, vectors
from tests.surgery.states import state_of
from torch import nn

from normsmith.checks import UnavailableError
from normsmith.checks.watcher import Watcher

X = vectors(1)[0][0]


def recorded(model: nn.Module, work):
    watcher = Watcher(model)
    with watcher.watching():
        return watcher.record("work", work)


def test_forwards_say_what_came_and_whether_a_gradient_came_back():
    model = mlp()

    def work():
        model(X)
        with torch.no_grad():
            model.eval()(2 * X)
        model.train()(X).sum().backward()

    record = recorded(model, work)
    assert record.events == ("forward", "forward", "forward", "backward")
    first, second, third = record.forwards
    assert first.inputs == third.inputs != second.inputs
    assert [one.records for one in record.forwards] == [True, False, True]
    assert [one.reached for one in record.forwards] == [False, False, True]
    assert record.modes == (True, False, True)


def test_a_part_that_is_called_by_itself_is_a_forward():
    model = nn.ModuleDict({"body": mlp(), "head": nn.Linear(2, 1)})
    record = recorded(model, lambda: model["head"](model["body"](X)))
    assert record.events == ("forward",)
    assert [call.path for call in record.calls] == ["body.1", "body.4"]
    assert {call.forward for call in record.calls} == {0}


def test_calls_of_norms_have_the_moments_of_what_came():
    norm = nn.BatchNorm1d(8, momentum=None)
    model = nn.Sequential(nn.Identity(), norm).eval()
    norm.train()
    (call,) = recorded(model, lambda: model(X)).calls
    assert (call.training, call.parent_training, call.momentum, call.moved) == (True, False, None, True)
    assert call.values == len(X)
    torch.testing.assert_close(call.mean, X.double().mean(0))
    torch.testing.assert_close(call.var, X.double().var(0, correction=0))


def test_hooks_are_gone_afterwards_also_when_the_work_raises():
    model = mlp()
    before = state_of(model)
    with pytest.raises(UnavailableError, match="the work raised ZeroDivisionError"):
        recorded(model, lambda: 1 / 0)
    assert state_of(model) == before
