"""NS305: frozen parameters, moving statistics."""

from __future__ import annotations

import copy

import torch
from tests.checks.networks import Residual, cnn, images, mlp, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery


class Tuned(nn.Module):
    """A backbone and a head that is tuned."""

    def __init__(self, backbone: nn.Module | None = None, frozen: bool = True, head: nn.Module | None = None):
        super().__init__()
        self.backbone = mlp() if backbone is None else backbone
        self.backbone.requires_grad_(not frozen)
        self.head = nn.Linear(2, 2) if head is None else head

    def forward(self, x):
        return self.head(self.backbone(x))


class Careful(Tuned):
    """Its backbone stays in evaluation."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.backbone.eval()
        return self


def in_evaluation(model: Tuned) -> Tuned:
    model.train()
    model.backbone.eval()
    return model


def layers_frozen() -> nn.Module:
    """The first layers of a flat network."""
    model = cnn()
    model[:6].requires_grad_(False)
    return model


def norms_frozen() -> nn.Module:
    """The norms of a pretrained network, whose convolutions are tuned."""
    model = Residual()
    for norm in (model.stem[1], model.norm):
        nn.init.normal_(norm.weight).requires_grad_(False)
        norm.bias.requires_grad_(False)
    return model


def norms_in_evaluation(frozen: bool = False) -> nn.Module:
    model = Residual()
    for norm in (model.stem[1], model.norm):
        norm.eval()
        if frozen:
            nn.init.normal_(norm.weight)
            norm.requires_grad_(False)
    return model


def train_again(model, batches, optimizer):
    model.train()
    step(model, batches, optimizer)


def step(model, batches, optimizer):
    x, y = next(batches)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


class Momentum(nn.Module):
    """A network and its average, which no gradient trains."""

    def __init__(self):
        super().__init__()
        self.online = mlp()
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x):
        return self.online(x) - self.target(x)


def averaging(model, batches, optimizer):
    step(model, batches, optimizer)
    with torch.no_grad():
        for mine, its in zip(model.target.parameters(), model.online.parameters(), strict=True):
            mine.lerp_(its, 0.1)


def deep(training_step):
    return {"training_step": training_step, "level": "deep"}


def without_affine() -> nn.Module:
    return mlp(affine=False)


class TestFrozenButUpdating(RuleContract):
    code = "NS305"
    faulty = {
        "a frozen backbone in training mode": lambda: Case(Tuned()),
        "the same, looked at in evaluation mode": lambda: Case(Tuned().eval(), vectors(2)),
        "the first layers of a CNN": lambda: Case(layers_frozen(), images(2)),
        "the norms of a pretrained residual network": lambda: Case(norms_frozen()),
        "train() in the step ends the evaluation mode": lambda: Case(
            in_evaluation(Tuned()), vectors(2), deep(train_again)
        ),
        "norms in evaluation mode, thawed": lambda: Case(norms_in_evaluation(), images(2), deep(train_again)),
        "all of a norm frozen between layers that train, thawed": lambda: Case(
            norms_in_evaluation(frozen=True), images(2), deep(train_again)
        ),
        "a backbone without affine": lambda: Case(Tuned(without_affine())),
    }
    healthy = {
        "a backbone in evaluation mode": lambda: Case(in_evaluation(Tuned())),
        "norms in evaluation mode": lambda: Case(norms_in_evaluation(), images(2), deep(step)),
        "which the steps leave there": lambda: Case(in_evaluation(Tuned()), vectors(2), deep(step)),
        "a train() of its own": lambda: Case(Careful().eval()),
        "a train() of its own, with steps": lambda: Case(Careful(), vectors(2), deep(train_again)),
        "frozen by surgery": lambda: Case(surgery.freeze(Tuned()).apply()),
        "nothing is frozen": lambda: Case(Tuned(frozen=False)),
        "a whole model that does not train": lambda: Case(mlp().requires_grad_(False)),
        "an average that the steps move": lambda: Case(Momentum(), vectors(2), deep(averaging)),
        "a head that begins with a norm without affine": lambda: Case(
            Tuned(nn.Linear(8, 2), head=nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2)))
        ),
        "norms without affine": lambda: Case(without_affine()),
    }


def test_it_says_what_ended_the_evaluation_mode():
    model = in_evaluation(Tuned())
    findings = normsmith.check(model, vectors(2), select=["NS305"], **deep(train_again))
    assert [finding.path for finding in findings] == ["backbone.1", "backbone.4"]
    assert "calls train()" in findings[0].cause


def test_b_of_a_bottleneck_is_no_freeze():
    model = mlp()
    model[4].bias.requires_grad_(False)  # as in networks for re-identification
    assert normsmith.check(model, select=["NS305"]).passed()
