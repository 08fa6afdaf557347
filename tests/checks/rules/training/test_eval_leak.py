"""NS306: validation in training mode."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, Residual, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.optim.swa_utils import update_bn

import normsmith
from normsmith import surgery

VECTORS, IMAGES, SEQUENCES = vectors(2), images(2), sequences(2)


def outputs(model, batches):
    with torch.no_grad():
        return float(sum(model(x).mean() for x, _ in batches))


def of_an_epoch(model):
    """The first half of the batches before somebody thinks of it."""
    first = outputs(model, IMAGES[:1])
    return first + outputs(model.eval(), IMAGES[1:])


def monte_carlo(model):
    """Dropout on, for an estimate of uncertainty; with the whole model in training mode."""
    model.train()
    return outputs(model, SEQUENCES)


class Stubborn(nn.Module):
    """A model one of whose parts does not hear of evaluation."""

    class Body(nn.Sequential):
        def train(self, mode: bool = True):
            return super().train(True)

    def __init__(self):
        super().__init__()
        self.body, self.head = self.Body(*mlp()), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.body(x))


def in_order(model):
    model.eval()
    value = outputs(model, VECTORS)
    model.train()
    return value


def by_test_batches(model):
    """Evaluation by the statistics of the test batches, as some mean it."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    return outputs(model, IMAGES)


def adapted(model):
    with surgery.adapt(model.eval(), prior=0.5):
        return outputs(model, VECTORS)


def after_update(model):
    update_bn([x for x, _ in IMAGES], model)
    return outputs(model.eval(), IMAGES)


def given(validate):
    return {"validate": validate}


class TestEvalLeak(RuleContract):
    code = "NS306"
    faulty = {
        "no_grad is taken for eval": lambda: Case(
            mlp(), given={"validate": lambda model: outputs(model, VECTORS)}
        ),
        "eval comes late": lambda: Case(Residual(), IMAGES, given(of_an_epoch)),
        "dropout for uncertainty by train()": lambda: Case(Recurrent().eval(), given=given(monte_carlo)),
        "a part that does not hear of evaluation": lambda: Case(Stubborn(), given=given(in_order)),
    }
    healthy = {
        "eval, then train again": lambda: Case(mlp(), given=given(in_order)),
        "norms alone by test batches": lambda: Case(Residual(), given=given(by_test_batches)),
        "surgery.adapt": lambda: Case(mlp(), given=given(adapted)),
        "statistics made afresh within the validation": lambda: Case(Residual(), given=given(after_update)),
        "frozen norms in any mode": lambda: Case(
            surgery.freeze(mlp(), "statistics").apply(),
            given={"validate": lambda model: outputs(model, VECTORS)},
        ),
        "no norm with statistics": lambda: Case(
            nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), given={"validate": lambda m: outputs(m, VECTORS)}
        ),
    }


def test_it_says_how_many_calls_and_that_statistics_moved():
    findings = normsmith.check(Residual(), validate=of_an_epoch, select=["NS306"])
    assert [finding.path for finding in findings] == ["stem.1", "norm"]
    assert (findings[0].measured, findings[0].severity) == (1, "error")
    assert "1 of 2 calls" in findings[0].message
    assert "follow the validation data" in findings[0].message


def test_a_validation_of_another_model_tells_nothing():
    other = mlp()
    findings = normsmith.check(mlp(), validate=lambda _: outputs(other, VECTORS), select=["NS306"])
    assert [row.reason for row in findings.not_run] == ["validate did not call the model that it was given"]
