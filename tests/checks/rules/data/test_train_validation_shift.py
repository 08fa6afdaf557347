"""NS408: validation data with other statistics than the training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from tests.surgery.states import state_of
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith


def validation(batches: list, change: Callable[[Tensor], Tensor], *, loss: bool = False) -> dict[str, Any]:
    """The user's validation, on changed data: accuracy, or the loss."""

    def validate(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            outputs = [(model(change(x)), y) for x, y in batches]
        if loss:
            return sum(float(F.cross_entropy(out, y)) for out, y in outputs) / len(outputs)
        return sum(float((out.argmax(1) == y).float().mean()) for out, y in outputs) / len(outputs)

    return {"validate": validate}


class Front(nn.Module):
    """A recurrent network with a norm on its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.body = nn.BatchNorm1d(8), Recurrent()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.front(x.transpose(1, 2)).transpose(1, 2))


def on(model: nn.Module, batches: list, change: Callable[[Tensor], Tensor], **options: Any) -> Case:
    held_out = [(x.clone(), y) for x, y in batches[8:]]
    return Case(trained(model, batches, 20), batches, validation(held_out, change, **options))


def unreadable() -> Case:
    """Images of which those of validation come as bright noise, by their loss."""
    case = on(cnn(), images(), lambda x: 3 + torch.randn_like(x), loss=True)
    case.given["loss"] = F.cross_entropy
    return case


class TestTrainValidationShift(RuleContract):
    code = "NS408"
    faulty = {
        "another offset, in an MLP": lambda: on(mlp(), vectors(), lambda x: x + 2),
        "another scale and offset, in a CNN": lambda: on(cnn(), images(), lambda x: 4 * x + 3),
        "sequences of another sensor, by their loss": lambda: on(
            Front(), sequences(), lambda x: x * 4 + 3, loss=True
        ),
        "files that are decoded to noise, which no statistics mend": unreadable,
    }
    healthy = {
        "the same data": lambda: on(mlp(), vectors(), lambda x: x),
        "a difference that costs nothing": lambda: on(mlp(), vectors(), lambda x: 1.2 * x),
        "mild noise": lambda: on(cnn(), images(), lambda x: x + 0.1 * torch.randn_like(x)),
        "group norm has no statistics": lambda: on(
            nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.Linear(8, 2)), vectors(), lambda x: x + 2
        ),
    }


def test_a_validation_that_trains_leaves_the_model_as_it_was():
    def validate(model: nn.Module) -> float:
        model.train()(vectors(1)[0][0])
        return 0.5

    model = trained(mlp(), vectors(4))
    before = state_of(model)
    findings = normsmith.check(model, vectors(), select=["NS408"], validate=validate)
    assert "in evaluation mode" in findings.not_run[0].reason
    assert state_of(model) == before


def test_a_validation_without_a_number_is_not_judged():
    for validate, why in ((lambda model: None, "a number"), (lambda model: 1 / 0, "raised")):
        findings = normsmith.check(trained(mlp(), vectors(4)), vectors(), select=["NS408"], validate=validate)
        assert why in findings.not_run[0].reason


def test_a_score_that_grows_from_nothing_to_next_to_nothing_gains_nothing():
    case = on(mlp(), vectors(), lambda x: x + 2)
    accuracy = case.given["validate"]

    def score(size: float) -> Callable[[nn.Module], float]:
        """A score that is 0 by chance, as that of a detector."""
        return lambda model: size * max(0.0, accuracy(model) - 0.7)

    for size, codes in ((1.0, ("NS408",)), (1e-4, ())):
        case.given["validate"] = score(size)
        assert case.check("NS408").codes == codes
