"""NS101: a bias that a batch norm subtracts."""

from __future__ import annotations

import torch
from tests.checks.networks import images, mlp, sequences
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith


class Functions(nn.Module):
    """A convolution, pooled and flattened by functions before its norm."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm1d(8)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.between == "relu":
            x = F.relu(x)
        return self.norm(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Shortcut(nn.Module):
    """The convolution's output is added again after the norm, so that its bias counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Transposed(nn.Module):
    """A linear layer over (N, T, C), whose norm takes (N, C, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x).transpose(1, 2))


class OverSteps(nn.Module):
    """A norm whose channels are the steps of a sequence: the bias differs within each of them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, features), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).train()
    model[1].eval()
    return model


class TestBiasBeforeNorm(RuleContract):
    code = "NS101"
    faulty = {
        "a linear layer": lambda: Case(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())),
        "a convolution, then pooling by functions": lambda: Case(Functions("nothing"), images(1)),
        "a transposed convolution before an identity": lambda: Case(
            nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.Identity(), nn.BatchNorm2d(8))
        ),
        "transposed": lambda: Case(Transposed(), sequences(1)),
        "flattened": lambda: Case(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(144)), images(1)
        ),
    }
    healthy = {
        "an activation between": lambda: Case(Functions("relu"), images(1)),
        "dropout between, which scales the bias": lambda: Case(
            nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.BatchNorm1d(8))
        ),
        "the output goes elsewhere too": lambda: Case(Shortcut(), images(1)),
        "channels of the norm are not those of the layer": lambda: Case(OverSteps(6), sequences(1)),
        "nor are they where there are as many": lambda: Case(OverSteps(5), sequences(1)),
        "a frozen norm subtracts nothing": lambda: Case(frozen()),
        "layer norm subtracts another mean": lambda: Case(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))),
        "no bias": lambda: Case(mlp()),
    }


def test_the_bias_has_no_effect_in_training_indeed():
    for make in TestBiasBeforeNorm.faulty.values():
        case = make()
        x = case.batches[0][0] if case.batches else torch.randn(6, 8)
        x = torch.randn(6, 3, 5, 5) if isinstance(case.model, nn.Sequential) and x.dim() == 2 and not (
            isinstance(case.model[0], nn.Linear)
        ) else x  # fmt: skip
        (finding,) = normsmith.check(case.model, case.batches, select=["NS101"])
        before = case.model.train()(x)
        case.model.get_submodule(finding.path).bias.data.add_(3.0)
        assert torch.allclose(case.model(x), before, atol=1e-4)


def test_it_is_information():
    assert normsmith.check(TestBiasBeforeNorm.faulty["a linear layer"]().model).passed()
