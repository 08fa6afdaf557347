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


class Forgetful(Part):
    """Its train() does not reach the network within."""

    def train(self, mode=True):
        self.training = mode
        return self if mode else super().train(False)


class Tuned(Part):
    """The network within stays in evaluation mode on purpose, and a layer after it trains."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(super().forward(x))

    def train(self, mode=True):
        super().train(mode)
        self.net.eval()
        return self


class TestTrainingInEval(RuleContract):
    code = "NS309"
    faulty = {
        "no train() after the validation": lambda: Case(mlp(), vectors(4), given(step)),
        "a part that the validation put into evaluation": lambda: Case(
            Part(), vectors(4), given(step, validate_part)
        ),
        "eval() in the step": lambda: Case(Recurrent(), sequences(4), given(all_in_evaluation)),
        "handed over in evaluation mode, and left there": lambda: Case(
            cnn().eval(), images(4), {"training_step": step, "level": "deep"}
        ),
        "a train() that does not reach the layers": lambda: Case(
            Forgetful().eval(), vectors(4), given(with_train)
        ),
        "norms alone": lambda: Case(Residual(), images(4), given(norms_alone)),
    }
    healthy = {
        "train() in each step": lambda: Case(cnn(), images(4), given(with_train)),
        "handed over in evaluation mode, and train() in each step": lambda: Case(
            Recurrent().eval(), sequences(4), {"training_step": with_train, "level": "deep"}
        ),
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


def test_a_part_in_evaluation_mode_is_information():
    findings = found(Tuned(), vectors(4), with_train)
    assert {finding.severity for finding in findings} == {"info"}


def test_what_the_model_says_of_itself_is_no_proof():
    (finding,) = found(Forgetful().eval(), vectors(4), with_train)
    assert (finding.path, finding.severity, finding.measured) == ("", "error", 2)


def test_a_model_that_came_in_evaluation_mode_is_a_warning():
    (finding,) = normsmith.check(mlp().eval(), vectors(4), select=["NS309"], training_step=step, level="deep")
    assert finding.severity == "warning"
    assert "handed over in evaluation mode" in finding.message


def test_the_usual_step_tells_nothing():
    findings = normsmith.check(mlp(), vectors(4), loss=F.cross_entropy, level="deep", select=["NS309"])
    assert [row.reason for row in findings.not_run] == ["give training_step=..."]
