"""NS412: one norm for domains, or calls, with different statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.checks.networks import cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery

Batches = list[tuple[Tensor, Tensor]]


def two_domains(batches: Batches, offset: float = 4.0) -> Batches:
    """Every other batch from another source."""
    return [(x + offset * (number % 2), y) for number, (x, y) in enumerate(batches)]


def source(batch: tuple[Tensor, Tensor]) -> str:
    return "far" if float(batch[0].mean()) > 2 else "near"


class Siamese(nn.Module):
    """One norm for two inputs that are on different scales, unless `alike`."""

    def __init__(self, alike: bool = False) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(32, 2)
        self.scale = 1.0 if alike else 5.0

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.norm(self.layer(x)))
        other = F.relu(self.norm(self.layer(self.scale * x.flip(0) + 5 * (self.scale - 1)))).flip(0)
        return self.head(torch.cat([one, other], 1))


class Last(nn.Module):
    """A recurrent network with a norm over its states, as channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.cells, self.head = (
            nn.BatchNorm1d(8),
            nn.GRU(8, 16, batch_first=True),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.norm(x.transpose(1, 2)).transpose(1, 2))[0][:, -1])


def one_of_them_quiet(batches: Batches) -> Batches:
    """Every other batch from a source that is quieter by far."""
    return [(x * (0.02 if number % 2 else 1), y) for number, (x, y) in enumerate(batches)]


def loudness(batch: tuple[Tensor, Tensor]) -> str:
    return "loud" if float(batch[0].std()) > 0.5 else "quiet"


def given(domain=source):
    return {"loss": F.cross_entropy, "domain": domain}


def on(model: nn.Module, batches: Batches, domain=source) -> Case:
    return Case(trained(model, batches, 25), batches, given(domain))


def unpaired(x: Tensor) -> Tensor:
    """Samples whose halves do not belong together."""
    return torch.cat([x[:, :4], x[:, 4:].flip(0)], 1)


def discriminator(generated: Callable[[Tensor], Tensor]) -> Case:
    """A network that tells real from generated samples, in forwards of their own."""
    batches = [(torch.cat([x, x], 1), y) for x, y in vectors(size=64, features=4)]

    def step(model, batches, optimizer):
        x, _ = next(batches)
        optimizer.zero_grad()
        model.train()
        (F.softplus(-model(x)[:, 0]).mean() + F.softplus(model(generated(x))[:, 0]).mean()).backward()
        optimizer.step()

    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        step(model, iter(batches), optimizer)

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return F.softplus(-output[:, 0]).mean()

    return Case(model, batches, {"loss": loss, "training_step": step, "level": "deep"})


class TestMixture(RuleContract):
    code = "NS412"
    faulty = {
        "two sources in an MLP": lambda: on(mlp(), two_domains(vectors())),
        "two cameras in a CNN": lambda: on(cnn(), two_domains(images())),
        "two sources of sequences": lambda: on(Last(), two_domains(sequences())),
        "one of two sources pays": lambda: on(mlp(), one_of_them_quiet(vectors(size=64)), loudness),
        "two calls on different scales": lambda: Case(
            trained(Siamese(), vectors(), 25), vectors(), {"loss": F.cross_entropy}
        ),
        "real and generated samples, in two forwards of a training step": lambda: discriminator(unpaired),
    }
    healthy = {
        "names without a difference": lambda: on(
            mlp(), vectors(), lambda batch: "even" if round(float(batch[0][0, 0]) * 1e4) % 2 else "odd"
        ),
        "a difference too small to cost": lambda: on(
            mlp(), two_domains(vectors(), 0.05), lambda batch: "a" if float(batch[0].mean()) > 0.02 else "b"
        ),
        "two forwards of a training step on the same data": lambda: discriminator(lambda x: x.flip(0)),
        "two calls on one scale": lambda: Case(
            trained(Siamese(alike=True), vectors(), 25), vectors(), {"loss": F.cross_entropy}
        ),
        "frozen": lambda: Case(
            surgery.freeze(trained(mlp(), two_domains(vectors())), "statistics").apply(),
            two_domains(vectors()),
            given(),
        ),
        "nobody said that there are domains": lambda: Case(
            trained(mlp(), two_domains(vectors())), two_domains(vectors()), {"loss": F.cross_entropy}
        ),
    }


def test_stale_statistics_alone_are_no_mixture():
    torch.manual_seed(0)
    model = trained(mlp(), vectors(), 20)
    other = [(x + 3, y) for x, y in vectors()]
    findings = normsmith.check(model, other, select=["NS412"], **given(lambda batch: str(len(batch[0]) % 2)))
    assert findings.passed()


def test_a_domain_that_pays_alone_is_named():
    (first, *_) = on(mlp(), one_of_them_quiet(vectors(size=64)), loudness).check("NS412")
    assert first.message.endswith(" of quiet")


@pytest.mark.parametrize("domain", [lambda batch: batch["camera"]])
def test_a_domain_that_raises_says_so(domain):
    findings = normsmith.check(trained(mlp(), vectors(2)), vectors(8), select=["NS412"], **given(domain))
    assert "domain raised" in findings.not_run[0].reason


def test_forwards_are_looked_at_where_domains_have_a_batch_each():
    def domain(batch: tuple[Tensor, Tensor]) -> str:
        return str(float(batch[0].sum()))

    case = discriminator(unpaired)
    assert "2 forwards of a training step" in case.check("NS412", domain=domain)[0].message
    alone = on(mlp(), vectors(), domain).check("NS412")
    assert "at least 3 batches" in alone.not_run[0].reason
