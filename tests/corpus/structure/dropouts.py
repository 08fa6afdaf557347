"""NS102: dropout before batch norm, whose variance in evaluation is another than in training."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

MAY = "403 404 202"


def with_dropout(rate: float) -> nn.Sequential:
    """An MLP with dropout before the second and third norm."""
    return nn.Sequential(
        nn.Linear(64, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(rate),
        nn.Linear(48, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(rate),
        nn.Linear(48, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10),
    )  # fmt: skip


@case("MLP", must="102", may=MAY, seen="Linear, BatchNorm, ReLU, Dropout, and again: variance shift")
def dropout_before_every_norm() -> Given:
    """Half of the units are dropped before a linear layer and a norm; in evaluation its input varies less."""
    return training.fitted(with_dropout(0.6), "mlp", steps=250)


class DropoutCnn(networks.Cnn):
    """Dropout of channels between two convolutions."""

    def __init__(self, norm: networks.Norm = networks.batch_norm) -> None:
        super().__init__(norm)
        self.dropout = nn.Dropout2d(0.5)

    def features(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(x)))


@case("CNN", must="102", may=MAY, seen="Dropout2d between convolutional blocks")
def dropped_channels_before_a_convolution() -> Given:
    """Whole channels are dropped before a convolution whose output batch norm normalises."""
    return training.fitted(DropoutCnn(), "cnn", steps=200)


class DropoutEncoder(nn.Module):
    """The block of transformers for time series: dropout on the branch, the sum into a batch norm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.attention = networks.Attention(width)
        self.norm1, self.norm2 = (networks.OverTime(nn.BatchNorm1d(width)) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, width))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class SeriesTransformer(networks.Transformer):
    """Two such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(DropoutEncoder(), DropoutEncoder())
        self.norm = nn.Identity()


@case(
    "transformer-like",
    must="102",
    may=MAY,
    seen="TST and PatchTST: dropout on each branch, batch norm on the sum",
)
def dropout_on_the_branch_of_a_series_transformer() -> Given:
    """Every norm sees the sum of the stream and a branch with dropout."""
    return training.fitted(SeriesTransformer(), "transformer", steps=160)


class DropoutGru(networks.Gru):
    """Dropout on the input of a recurrent layer whose output is normalised."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, self.training))


@case("RNN", must="102", may=MAY, seen="F.dropout on inputs of recurrent encoders with batch norm after them")
def functional_dropout_before_a_recurrent_layer() -> Given:
    """Half of the inputs are dropped by a function call, no module."""
    return training.fitted(DropoutGru(networks.batch_norm), "gru")


@case("MLP", must_not="102")
def dropout_of_rate_zero() -> Given:
    """The same layers with a rate of 0."""
    return training.fitted(with_dropout(0.0), "mlp")


@case("RNN", must_not="102 403")
def dropout_before_the_head() -> Given:
    """Dropout after the last norm, before the head."""
    model = networks.Gru()
    model.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(32, 10))
    return training.fitted(model, "gru")


@case("CNN", must_not="102 403")
def dropout_before_group_norm() -> Given:
    """Dropout before group norm, which takes its statistics anew in evaluation."""
    return training.fitted(DropoutCnn(networks.group_norm), "cnn", steps=200)


class Aside(networks.Cnn):
    """Dropout on a branch that meets the main path only after the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)) + torch.tanh(self.aside(x)))


@case("CNN", must_not="102")
def dropout_on_another_branch() -> Given:
    """No batch norm comes after the dropout on any path."""
    return training.fitted(Aside(), "cnn")
