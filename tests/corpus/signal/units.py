"""NS501 and NS502: units that are always off, or always flat."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn

MAY = "107 503 504 505 506 203 411 403 404"


def shifted(model: nn.Module, layers: list[nn.Linear | nn.Conv2d], by: float, share: float) -> nn.Module:
    """Push the biases of a share of each layer's units far down."""
    with torch.no_grad():
        for layer in layers:
            assert layer.bias is not None
            layer.bias[: int(share * len(layer.bias))] = by
    return model


def plain_mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two hidden layers without norms."""
    return nn.Sequential(nn.Linear(64, 48), activation(), nn.Linear(48, 48), activation(), nn.Linear(48, 10))


def linears(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """All layers with weights but the last."""
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][:-1]


@case(
    "MLP", must="501", may=MAY, seen="one step at too high a learning rate, and most ReLUs never fire again"
)
def units_killed_by_one_step() -> Given:
    """Biases were thrown far below 0; nine units in ten are off for every sample."""
    model = training.fitted(plain_mlp(), "mlp", steps=40).model
    return training.around(shifted(model, linears(model), -40.0, 0.9), "mlp")


class PlainCnn(networks.Cnn):
    """Convolutions with bias, without norms."""

    def __init__(self) -> None:
        super().__init__(networks.no_norm)
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, stride=2, padding=1)


@case("CNN", must="501", may=MAY, seen="ReLU networks with large negative biases after a loss spike")
def dead_convolutions() -> Given:
    """Three channels in four of each convolution are never positive."""
    model = training.fitted(PlainCnn(), "cnn", steps=40).model
    return training.around(shifted(model, [model.conv1, model.conv2], -30.0, 0.75), "cnn")


class ReluTransformer(networks.Transformer):
    """Blocks whose hidden units are ReLUs."""

    def __init__(self) -> None:
        super().__init__(networks.group_norm)
        for block in self.blocks:
            block.mlp[1] = nn.ReLU()


@case(
    "transformer-like",
    must="501",
    may=MAY,
    seen="transformers' ReLU layers: most hidden units silent for all inputs",
)
def dead_units_in_feed_forward_layers() -> Given:
    """Nine hidden units in ten of each block are off for every token."""
    model = training.fitted(ReluTransformer(), "transformer", steps=40).model
    return training.around(shifted(model, [b.mlp[0] for b in model.blocks], -30.0, 0.9), "transformer")


@case("MLP", must_not="501")
def sparse_units() -> Given:
    """ReLUs that are off for two samples in three, each for others."""
    return training.trained("mlp", "none")


@case("CNN", must_not="501")
def few_dead_channels() -> Given:
    """Two channels in twelve are dead, the others live."""
    model = training.fitted(PlainCnn(), "cnn", steps=80).model
    return training.around(shifted(model, [model.conv1], -30.0, 0.17), "cnn")


@case("transformer-like", must_not="501")
def smooth_activations() -> Given:
    """GELU has small negative outputs where ReLU would be 0."""
    return training.trained("transformer", "group")


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


@case("MLP", must_not="501")
def leaky_units_below_zero() -> Given:
    """Most inputs of leaky ReLUs are negative, and pass on a tenth."""
    model = plain_mlp(leaky)
    return training.fitted(shifted(model, linears(model), -0.5, 1.0), "mlp")


# Flat activations.


def enlarged(model: nn.Module, layers: list[nn.Linear | nn.Conv2d], factor: float) -> nn.Module:
    """Multiply weights."""
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(factor)
    return model


@case("MLP", must="502", may=MAY, seen="tanh networks with normal weights of deviation 1")
def tanh_with_large_weights() -> Given:
    """Sums of 64 terms with weights of deviation 1 drive tanh into its flat parts."""
    model = plain_mlp(nn.Tanh)
    for layer in linears(model):
        nn.init.normal_(layer.weight, std=2.0)
    return training.around(model, "mlp")


class SigmoidCnn(PlainCnn):
    """Sigmoids after each convolution."""

    def features(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv2(torch.sigmoid(self.conv1(x))))


@case("CNN", must="502", may=MAY, seen="sigmoid networks on unscaled inputs or with large weights")
def flat_sigmoids_after_convolutions() -> Given:
    """Weights are fifty times as large as they should be."""
    model = SigmoidCnn()
    return training.around(enlarged(model, [model.conv1, model.conv2], 50.0), "cnn")


class TanhRnn(nn.Module):
    """An Elman network of tanh steps, written out."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inp, self.rec = nn.Linear(8, 32), nn.Linear(32, 32)
        self.tanh = nn.Tanh()
        self.head = nn.Linear(32, 10)
        enlarged(self, [self.inp, self.rec], scale)

    def forward(self, x: Tensor) -> Tensor:
        state = self.tanh(self.inp(x[:, 0]))
        for step in range(1, x.shape[1]):
            state = self.tanh(self.inp(x[:, step]) + self.rec(state))
        return self.head(state)


@case("RNN", must="502", may=MAY, seen="recurrent networks whose states stick at −1 and 1")
def stuck_states() -> Given:
    """States sit at −1 and 1 for whole sequences."""
    return training.around(TanhRnn(40.0), "gru")


@case("MLP", must_not="502 504")
def tanh_by_xavier() -> Given:
    """tanh with weights that fit it, trained for a while."""
    model = plain_mlp(nn.Tanh)
    for layer in linears(model):
        nn.init.xavier_uniform_(layer.weight)
    return training.fitted(model, "mlp")


@case("RNN", must_not="502")
def lively_states() -> Given:
    """A recurrent network of tanh, trained for a while."""
    return training.fitted(TanhRnn(1.0), "gru")


@case("MONAI", must_not="502")
def confident_outputs() -> Given:
    """Probabilities at the very end are near 0 and 1, because the network is right."""
    given = training.trained("monai")

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy(output.clamp(1e-6, 1 - 1e-6), target)

    return training.around(nn.Sequential(given.model, nn.Sigmoid()), "monai", loss=loss, validate=None)
