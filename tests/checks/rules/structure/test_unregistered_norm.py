"""NS110: norms that the forward calls and the model does not have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.checks.networks import Residual, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn

import normsmith


class Listed(nn.Module):
    """Linear layers in a ModuleList, norms in whatever `keep` makes of a list."""

    def __init__(self, keep: Callable[[list[nn.Module]], object]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.norms = keep([nn.BatchNorm1d(8), nn.BatchNorm1d(8)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = self.norms[number](layer(x)).relu()
        return self.head(x)


class Closure(nn.Module):
    """A CNN whose norm is in a closure."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(8)
        self.conv, self.act = nn.Conv2d(3, 8, 3), lambda x: norm(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)).mean((2, 3))


class MadeAnew(nn.Module):
    """A layer norm that each forward makes, within a submodule."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.LayerNorm(x.shape[-1])(x)


class Hidden(nn.Module):
    """A network in a list, as teachers are kept out of the parameters."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher, self.student = [teacher], mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x) - self.teacher[0](x).detach()


class TestUnregisteredNorm(RuleContract):
    code = "NS110"
    faulty = {
        "a plain list": lambda: Case(Listed(list), vectors(2)),
        "a dict": lambda: Case(Listed(lambda norms: dict(enumerate(norms))), vectors(2)),
        "a closure in a CNN": lambda: Case(Closure(), images(2)),
        "made in the forward": lambda: Case(nn.Sequential(nn.Linear(8, 4), MadeAnew()), sequences(2)),
        "a block in a list": lambda: Case(Hidden(mlp()), vectors(2)),
    }
    healthy = {
        "a ModuleList": lambda: Case(Listed(nn.ModuleList), vectors(2)),
        "a teacher that is hidden on purpose": lambda: Case(
            Hidden(mlp().eval().requires_grad_(False)), vectors(2)
        ),
        "norms as attributes": lambda: Case(Residual(), images(2)),
        "another model in the forward function": lambda: Case(
            mlp(), vectors(2), {"forward": lambda model, batch: (model(batch[0]), CNN(images(1)[0][0]))}
        ),
    }


CNN = cnn()


def test_it_says_who_calls_how_many_and_leaves_their_statistics():
    model = nn.Sequential(Listed(list))
    norm = model[0].norms[0]
    (finding,) = normsmith.check(model, vectors(2), select=["NS110"])
    assert (finding.path, finding.measured) == ("0", 2)
    assert "2 norms (BatchNorm1d)" in finding.message
    assert torch.equal(norm.running_mean, torch.zeros(8))
    assert norm.num_batches_tracked == 0


def test_a_forward_that_raises_is_not_run_and_leaves_no_hooks():
    hooks = dict(nn.modules.module._global_forward_pre_hooks)
    findings = normsmith.check(mlp(), [torch.randn(4, 3)], select=["NS110"])
    assert "the model raised" in findings.not_run[0].reason
    assert dict(nn.modules.module._global_forward_pre_hooks) == hooks
