"""Networks in which nothing is wrong with any signal: no rule of the family may say anything."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import KINDS, Residual, cnn, images, mlp, trained, vectors
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith
from normsmith.checks import every_rule

FAMILY = tuple(code for code in every_rule() if code.startswith("NS5"))


class Embedded(nn.Module):
    """Most rows of the embedding get no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(1000, 8), nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).relu().mean(1))


class Adversaries(nn.Module):
    """A generator and a discriminator, with a loss for each."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.discriminator = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.discriminator(self.generator(x))


def adversarial(model: Adversaries, batches, optimizer) -> None:
    x, _ = next(batches)
    optimizer.zero_grad()
    fake = model.generator(torch.randn_like(x))
    F.softplus(-model.discriminator(fake)).mean().backward()
    model.discriminator.zero_grad()
    (F.softplus(model.discriminator(fake.detach())) + F.softplus(-model.discriminator(x))).mean().backward()
    optimizer.step()


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))


def without_norms() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))


def words() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(1000, (32, 6), generator=draw) for _ in range(8)]
    return [(x, (x[:, 0] > 500).long()) for x in rows]


def partly_frozen() -> nn.Module:
    model = trained(cnn(), images())
    model[:3].requires_grad_(False)
    return model


HEALTHY = {
    **{f"{kind}, new": (make, data) for kind, (make, data) in KINDS.items()},
    "an MLP, trained": (lambda: trained(mlp(), vectors()), vectors),
    "without norms, new": (without_norms, vectors),
    "without norms, trained": (lambda: trained(without_norms(), vectors()), vectors),
    "a residual branch that begins at 0": (lambda: Residual(zero=True), images),
    "a frozen part": (partly_frozen, images),
    "rows without gradients": (Embedded, words),
    "dropout": (dropping, vectors),
}


def said(model: nn.Module, batches, **given) -> list[str]:
    findings = normsmith.check(model, batches, level="deep", select=["NS5"], **given)
    assert not [row for row in findings.not_run if row.reason.startswith("the rule raised")]
    assert set(findings.clean) | {row.code for row in findings.not_run} | set(findings.codes) == set(FAMILY)
    return [f"{finding.code} {finding}" for finding in findings]


@pytest.mark.parametrize("kind", HEALTHY)
def test_nothing_is_said(kind):
    torch.manual_seed(0)
    make, data = HEALTHY[kind]
    model = make()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    assert said(model, data(), loss=F.cross_entropy, optimizer=optimizer) == []


@pytest.mark.parametrize("rate", [0.001, 0.05])
def test_nothing_is_said_of_gradient_descent(rate):
    torch.manual_seed(0)
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    assert said(model, images(), loss=F.cross_entropy, optimizer=optimizer) == []


def test_nothing_is_said_of_adversaries():
    torch.manual_seed(0)
    model = Adversaries()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999))
    assert said(model, vectors(), training_step=adversarial, optimizer=optimizer) == []
