"""The batches in evaluation, each run once."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tests.checks.held import held_bytes
from tests.checks.networks import mlp, vectors
from tests.surgery.states import state_of
from torch import nn

from normsmith.checks.context import pair
from normsmith.checks.evaluations import Evaluations
from normsmith.checks.finding import UnavailableError


class Counted(nn.Module):
    """An MLP that counts its forwards, and returns `copies` of its output."""

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self.body, self.copies, self.forwards = mlp(), copies, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards.append(self.training)
        return self.body(x).repeat(1, self.copies)


def made(model: Counted, batches: list) -> Evaluations:
    return Evaluations(model, batches, pair, [model.body[1]])


def test_a_batch_runs_once_for_its_output_and_its_samples():
    model, batches = Counted().train(), vectors(3)
    before = state_of(model)
    evaluations = made(model, batches)
    for _ in range(2):
        for number, (x, _) in enumerate(batches):
            output, target = evaluations.result(batches[number])
            assert target is not None
            torch.testing.assert_close(output, model.body.eval()(x))
            model.body.train()
            assert evaluations.samples(number)[0].shape == (32, 32)
    assert model.forwards == [False] * 3
    model.forwards.clear()
    assert state_of(model) == before


def test_a_large_output_is_not_kept_but_its_samples_are():
    model, batches = Counted(copies=9), vectors(1)
    evaluations = made(model, batches)
    evaluations.result(batches[0])
    evaluations.samples(0)
    assert len(model.forwards) == 1
    evaluations.result(batches[0])
    assert len(model.forwards) == 2


@pytest.mark.parametrize("change", ["written", "replaced"])
def test_a_model_that_has_changed_runs_again(change):
    model, batches = Counted(), vectors(1)
    evaluations = made(model, batches)
    one = evaluations.result(batches[0])[0]
    if change == "written":
        model.body[1].running_mean.add_(3.0)
    else:
        model.body[1]._buffers["running_mean"] = torch.full((16,), 3.0)
    other = evaluations.result(batches[0])[0]
    assert len(model.forwards) == 2
    assert not torch.equal(one, other)


def test_every_forward_draws_the_same_numbers_whatever_was_drawn_between():
    model, batches = nn.Dropout(), vectors(1)
    evaluations = Evaluations(model, batches, lambda m, batch: (m.train()(batch[0]), None), [])
    one = evaluations.result(batches[0])[0]
    torch.randn(3)
    assert torch.equal(evaluations.changed(batches[0], nullcontext)[0], one)
    assert not torch.equal(one, batches[0][0])


def test_an_output_that_is_part_of_something_large_is_kept_alone():
    model, batches = nn.Linear(8, 2**18), vectors(2)
    evaluations = Evaluations(model, batches, lambda m, batch: (m(batch[0])[:, :2], batch[1]), [])
    before = held_bytes()
    for batch in batches:
        evaluations.result(batch)
    assert held_bytes() - before < 2**16  # the whole outputs are 2**26


def test_other_batches_run_each_time():
    model, batches = Counted(), vectors(2)
    evaluations = made(model, batches[:1])
    for _ in range(2):
        evaluations.result(batches[1])
    assert len(model.forwards) == 2
    evaluations.samples(0)
    assert len(model.forwards) == 3


def test_a_model_that_raises_says_in_which_batch():
    batches = [*vectors(2), (torch.zeros(2, 3), None)]
    with pytest.raises(UnavailableError, match="in batch 3"):
        made(Counted(), batches).result(batches[2])
