"""NS309: training in evaluation mode."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, Residual, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery


def step(model, batches, optimizer):
    x, y = next(batches)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def with_train(model, batches, optimizer):
    model.train()
    step(model, batches, optimizer)


def all_in_evaluation(model, batches, optimizer):
    model.eval()
    step(model, batches, optimizer)


def norms_alone(model, batches, optimizer):
    """As detectors are tuned whose norms keep the statistics of their backbone."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    step(model, batches, optimizer)


def pseudo_labels(model, batches, optimizer):
    x, _ = next(batches)
    model.eval()
    with torch.no_grad():
        y = model(x).argmax(1)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def against_attacks(model, batches, optimizer):
    """Examples are made in evaluation mode, with gradients, and trained on in training mode."""
    x, y = next(batches)
    model.eval()
    attacked = x.clone().requires_grad_()
    (towards,) = torch.autograd.grad(F.cross_entropy(model(attacked), y), attacked)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(x + 0.1 * towards.sign()), y).backward()
    optimizer.step()


def validate(model):
    model.eval()


class Part(nn.Module):
    """A network within another module, whose validation goes by the network alone."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x)


def validate_part(model):
    model.net.eval()


def probe() -> nn.Module:
    """A frozen body in evaluation mode, and a head that trains."""
    model = mlp()
    model[:-1].requires_grad_(False)
    return model


def given(training_step, check=validate):
    return {"training_step": training_step, "validate": check, "level": "deep"}


class TestTrainingInEval(RuleContract):
    code = "NS309"
    faulty = {
        "no train() after the validation": lambda: Case(mlp(), vectors(4), given(step)),
        "a part that the validation put into evaluation": lambda: Case(
            Part(), vectors(4), given(step, validate_part)
        ),
        "eval() in the step": lambda: Case(Recurrent(), sequences(4), given(all_in_evaluation)),
        "norms alone": lambda: Case(Residual(), images(4), given(norms_alone)),
    }
    healthy = {
        "train() in each step": lambda: Case(cnn(), images(4), given(with_train)),
        "frozen by surgery": lambda: Case(
            surgery.freeze(cnn(), "statistics").apply(), images(4), given(with_train)
        ),
        "a frozen body and a head": lambda: Case(probe(), vectors(4), given(all_in_evaluation)),
        "pseudo-labels": lambda: Case(mlp(), vectors(4), given(pseudo_labels)),
        "attacks": lambda: Case(mlp(), vectors(4), given(against_attacks)),
        "no norm": lambda: Case(nn.Sequential(nn.Linear(8, 2)), vectors(4), given(step)),
    }


def found(model, batches, training_step, check=validate):
    return normsmith.check(model, batches, select=["NS309"], **given(training_step, check))


def test_only_norms_is_information():
    findings = found(Residual(), images(4), norms_alone)
    assert [(finding.path, finding.severity) for finding in findings] == [
        ("stem.1", "info"),
        ("norm", "info"),
    ]
    assert findings.passed()


def test_the_model_is_named_once_with_the_cause():
    (finding,) = found(mlp(), vectors(4), step)
    assert (finding.path, finding.severity, finding.measured) == ("", "error", 2)
    assert "after the validation" in finding.message
    (finding,) = found(mlp(), vectors(4), all_in_evaluation)
    assert finding.cause == "eval() before or in the training step"


def test_the_usual_step_tells_nothing():
    findings = normsmith.check(mlp(), vectors(4), loss=F.cross_entropy, level="deep", select=["NS309"])
    assert [row.reason for row in findings.not_run] == ["give training_step=..."]
