"""Training steps on a copy: who was called in which mode, what moved, and that the model itself did not."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import cnn, images, mlp, vectors
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from normsmith.checks import Context, UnavailableError


def context(model: nn.Module, batches=None, **given) -> Context:
    return Context(model, vectors(4) if batches is None else batches, **given)


def validate(model: nn.Module) -> float:
    """Leaves the model in evaluation mode, as many do."""
    model.eval()
    with torch.no_grad():
        return float(model(vectors(1)[0][0]).mean())


def accumulating(model, batches, optimizer):
    for _ in range(2):
        x, y = next(batches)
        F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_usual_step():
    model = cnn()
    before = state_of(model)
    run = context(model, images(4), loss=F.cross_entropy).training
    assert state_of(model) == before
    first, second = run.steps
    assert first.events == second.events == ("forward", "backward", "step")
    assert [call.path for call in first.calls] == ["1", "4"]
    assert all(call.training and call.moved and call.forward == 0 for call in first.calls)
    assert [call.values for call in first.calls] == [16 * 64, 16 * 16]
    assert first.moved == {name for name, _ in model.named_parameters()}
    assert (run.validation, run.after, run.own_step) == (None, None, False)


def test_a_step_of_a_model_that_comes_in_evaluation_mode():
    model = mlp()
    before = state_of(model)
    plain, trains = (
        context(model, training_step=step).step_in_evaluation
        for step in (accumulating, lambda model, *rest: accumulating(model.train(), *rest))
    )
    assert (plain.modes, trains.modes) == ((False, False), (True, True))
    assert plain.moved
    assert state_of(model) == before


def test_the_optimizer_of_the_copy_is_the_users():
    model = mlp()
    optimizer = torch.optim.Adam([{"params": model[0].parameters(), "lr": 0.1}], lr=0.2)
    before = state_of(model)
    run = context(model, loss=F.cross_entropy, optimizer=optimizer).training
    assert run.steps[0].moved == {"0.weight"}
    assert state_of(model) == before
    assert not optimizer.state


def test_validation_shows_who_was_in_which_mode():
    def forgetful(model, batches, optimizer):
        x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    run = context(mlp(), training_step=forgetful, validate=validate).training
    assert run.own_step
    assert run.steps[0].modes == (True,)
    assert not any(call.training or call.moved for call in run.validation.calls)
    assert run.after.modes == (False,)
    assert not any(call.moved for call in run.after.calls)
    assert run.after.moved


def test_accumulation_is_several_forwards_for_one_step():
    (step, _) = context(mlp(), training_step=accumulating).training.steps
    assert step.events == ("forward", "backward", "forward", "backward", "step")
    assert [step.before(number, "backward") for number in (0, 1)] == [0, 1]


def test_two_forwards_before_a_backward():
    def both(model, batches, optimizer):
        (x, y), (z, _) = next(batches), next(batches)
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + model(z).mean()).backward()
        optimizer.step()

    (step, _) = context(mlp(), training_step=both).training.steps
    assert [step.before(number, "backward") for number in (0, 1)] == [0, 0]
    assert len(step.calls_of("1")) == 2


def test_a_recomputed_forward_is_outside_the_models():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    (step, _) = context(Checkpointed(), loss=F.cross_entropy).training.steps
    calls = step.calls_of("body.1")
    assert [call.forward for call in calls] == [0, None]
    assert all(call.moved for call in calls)


def test_frozen_norms_do_not_move():
    model = mlp()
    model[1].momentum = 0.0
    (step, _) = context(model, loss=F.cross_entropy).training.steps
    assert [call.moved for call in step.calls] == [False, True]


@pytest.mark.parametrize(
    ("model", "given", "says"),
    [
        (mlp, {}, "give loss=... or training_step=..."),
        (mlp, {"training_step": lambda *_: 1 / 0}, "the training step raised ZeroDivisionError"),
        (
            mlp,
            {"loss": F.cross_entropy, "validate": lambda _: 1 / 0},
            "the validation raised ZeroDivisionError",
        ),
        (lambda: mlp().requires_grad_(False), {"loss": F.cross_entropy}, "no parameter that trains"),
    ],
)
def test_what_cannot_be_had(model, given, says):
    with pytest.raises(UnavailableError, match=says.replace(".", r"\.")):
        _ = context(model(), **given).training


def test_a_model_that_cannot_be_copied():
    model = mlp()
    model.held = (number for number in range(3))
    with pytest.raises(UnavailableError, match="cannot be copied"):
        _ = context(model, loss=F.cross_entropy).training
