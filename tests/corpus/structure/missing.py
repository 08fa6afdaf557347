"""NS107 and NS503: deep networks without norms whose activations shrink or grow with depth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

MAY = "501 502 504 505 506"
Start = Callable[[Tensor], object]


def deep_mlp(
    start: Start, *, depth: int = 8, activation: type[nn.Module] = nn.ReLU, norm: bool = False
) -> nn.Sequential:
    """Linear layers of width 64, started by a function of their weights."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(64, 64)
        start(linear.weight.data)
        nn.init.zeros_(linear.bias)
        layers += [linear, *([nn.BatchNorm1d(64)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def normal(deviation: float) -> Start:
    """Normal weights of a deviation."""
    return lambda weight: nn.init.normal_(weight, std=deviation)


def he(weight: Tensor) -> None:
    """He's initialisation."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def at_start(model: nn.Module, base: str) -> Given:
    """A network as its training begins, without steps that would hide or mend what is wrong."""
    return training.around(model, base)


@case(
    "MLP",
    must="107 503",
    may=MAY,
    seen="deep MLPs with normal weights of 0.02 or of 0.01: nothing arrives at the end",
)
def weights_too_small_for_the_depth() -> Given:
    """Eight layers with weights of deviation 0.02; each passes on a ninth of what it gets."""
    return at_start(deep_mlp(normal(0.02)), "mlp")


@case("MLP", must="107 503", may=MAY, seen="weights drawn with deviation 1: losses in the millions")
def weights_too_large_for_the_depth() -> Given:
    """Eight layers with weights of deviation 0.6; each makes its input three times as large."""
    return at_start(deep_mlp(normal(0.6)), "mlp")


class DeepCnn(nn.Sequential):
    """Eight convolutions without norms, with small weights."""

    def __init__(self, start: Start, norm: networks.Norm = networks.no_norm) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, padding=1)]
        for _ in range(7):
            layers += [norm(12, 2), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1)]
        super().__init__(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                start(layer.weight.data)
                nn.init.zeros_(layer.bias)


@case("CNN", must="107 503", may=MAY, seen="VGG-like networks without norms and the wrong initialisation")
def deep_convolutions_with_small_weights() -> Given:
    """Eight convolutions, no norm; the signal is a thousandth at the end."""
    return at_start(DeepCnn(normal(0.04)), "cnn")


class DeepRecurrent(nn.Module):
    """Six recurrent layers in a row without norms or skips."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.RNN(8 if i == 0 else 24, 24, nonlinearity="relu", batch_first=True) for i in range(6)
        )
        self.head = nn.Linear(24, 10)
        for name, parameter in self.layers.named_parameters():
            nn.init.normal_(parameter, std=0.05) if "weight" in name else nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)[0]
        return self.head(x.mean(1))


@case("RNN", must="107 503", may=MAY, seen="stacked recurrent layers that only learn with one or two of them")
def deep_recurrence_with_small_weights() -> Given:
    """Six recurrent layers, weights of 0.05: layer by layer less."""
    return at_start(DeepRecurrent(), "gru")


@case("MLP", must_not="107 503")
def shallow_without_norms() -> Given:
    """Two hidden layers without norms, as they learn well."""
    return training.trained("mlp", "none")


@case("MLP", must_not="107 503")
def deep_without_norms_by_he() -> Given:
    """Eight layers by He's initialisation, trained: the scale is kept, nothing is missing."""
    return training.fitted(deep_mlp(he), "mlp", steps=80)


def unit_gain(weight: Tensor) -> None:
    """LeCun's initialisation, for SELU."""
    nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


@case("MLP", must_not="107 503 504")
def self_normalising() -> Given:
    """Eight layers of SELU with LeCun's initialisation, as training begins."""
    return at_start(deep_mlp(unit_gain, activation=nn.SELU), "mlp")


@case("CNN", must_not="107")
def deep_convolutions_with_norms() -> Given:
    """Eight convolutions with group norms."""
    return training.fitted(DeepCnn(he, networks.group_norm), "cnn", steps=60)


class Fixup(nn.Module):
    """A residual network without norms whose branches begin at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(64, 48)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48)) for _ in range(4)
        )
        for branch in self.branches:
            nn.init.zeros_(branch[2].weight)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for branch in self.branches:
            x = x + branch(F.relu(x))
        return self.head(torch.relu(x))


@case("MLP", must_not="107 503 505")
def residual_branches_that_begin_at_zero() -> Given:
    """Ten layers without norms, kept in scale by residual branches that began at 0; trained for a while."""
    return training.fitted(Fixup(), "mlp", steps=80)


@case("transformer-like", must_not="503")
def stream_that_grows_a_little() -> Given:
    """The stream of a transformer grows with each block, as it does in all of them."""
    return training.trained("transformer")
