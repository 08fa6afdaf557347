"""NS101: a bias that batch norm takes away again."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F


@case("MLP", must="101", seen="nn.Linear and nn.BatchNorm1d one after the other, biases at their default")
def bias_before_batch_norm() -> Given:
    """Linear layers keep a bias that the norm after them subtracts with the mean."""
    model = networks.mlp()
    model[0], model[3] = nn.Linear(64, 48), nn.Linear(48, 48)
    return training.fitted(model, "mlp")


class BiasedCnn(networks.Cnn):
    """Convolutions with bias, called by a forward of its own."""

    def __init__(self, norm: networks.Norm = networks.batch_norm) -> None:
        super().__init__(norm)
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, stride=2, padding=1)


@case(
    "CNN",
    must="101",
    seen="convolutions with bias in classes with a forward of their own, where nn.Sequential is not seen",
)
def convolution_bias_before_batch_norm() -> Given:
    """The biases of both convolutions go straight into batch norms, by attribute calls."""
    return training.fitted(BiasedCnn(), "cnn")


@case(
    "MONAI",
    must="101",
    seen="MONAI's convolution blocks: bias=True by default, followed by norm, dropout, activation",
)
def monai_convolution_bias() -> Given:
    """MONAI's UNet has biases before its batch norms unless one says bias=False."""
    return training.trained("monai")


class Projected(networks.Transformer):
    """The embedding is normalised over samples and steps as soon as it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.embed(x).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(self.blocks(x + self.position)).mean(1))


@case("transformer-like", must="101", seen="a linear projection, a transpose and BatchNorm1d")
def bias_before_a_transposed_batch_norm() -> Given:
    """Between bias and norm stands only a transpose."""
    return training.fitted(Projected(), "transformer")


@case("MLP", must_not="101")
def bias_relu_batch_norm() -> Given:
    """A ReLU stands between bias and norm: the bias says where it bends."""
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.BatchNorm1d(48),
        nn.Linear(48, 48), nn.ReLU(), nn.BatchNorm1d(48), nn.Linear(48, 10),
    )  # fmt: skip
    return training.fitted(model, "mlp")


class Branching(BiasedCnn):
    """What the convolutions give goes to the norm and past it."""

    def features(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        x = F.relu(self.bn1(first)) + torch.tanh(first)
        second = self.conv2(x)
        return F.relu(self.bn2(second)) + torch.tanh(second)


@case("CNN", must_not="101")
def bias_with_a_second_consumer() -> Given:
    """The biased output also goes past the norm, where the bias counts."""
    return training.fitted(Branching(), "cnn")


@case("CNN", must_not="101")
def bias_before_group_norm() -> Given:
    """One mean for all channels of a group: the channels' biases differ and stay."""
    return training.fitted(BiasedCnn(networks.group_norm), "cnn")


@case("transformer-like", must_not="101")
def bias_before_layer_norm() -> Given:
    """Linear layers with bias before layer norm, as in every transformer."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.LayerNorm(48), nn.GELU(),
        nn.Linear(48, 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, 10),
    )  # fmt: skip
    return training.fitted(model, "transformer")


@case("Hugging Face", must_not="101")
def convolutions_without_bias() -> Given:
    """Hugging Face's ResNet has no bias before its norms."""
    return training.trained("hf")
