"""NS111: groups of a single value, whose norm is β whatever comes in."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

MAY = "203 411 501 502 503 504 505 506"


@case("MLP", must="111", may=MAY, seen="GroupNorm(C, C) put in for BatchNorm1d on vectors")
def group_for_each_feature() -> Given:
    """As many groups as features of a vector: each value is its own mean, and the output is β."""
    return training.fitted(networks.mlp(lambda channels, _: nn.GroupNorm(channels, channels)), "mlp")


class Excited(networks.Cnn):
    """Squeeze and excitation with a norm of single channels on the pooled features."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(24, 24, 1)
        self.gn = nn.GroupNorm(groups, 24)

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        return x * torch.sigmoid(self.gn(self.squeeze(F.adaptive_avg_pool2d(x, 1))))


@case("CNN", must="111", may=MAY, seen="instance norm, as GroupNorm(C, C), after a global pool")
def instance_norm_of_single_pixels() -> Given:
    """Groups of one channel on 1 × 1 maps: the gate is a constant."""
    return training.fitted(Excited(24), "cnn")


class SeriesOfOne(nn.Module):
    """A series of one value per step, with layer norm over that value."""

    def __init__(self, *, embedded_first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16 if embedded_first else 1)
        self.embed = nn.Linear(1, 16)
        self.rnn = nn.GRU(16, 24, batch_first=True)
        self.head = nn.Linear(24, 10)
        self.embedded_first = embedded_first

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(2, keepdim=True)
        x = self.norm(self.embed(x)) if self.embedded_first else self.embed(self.norm(x))
        return self.head(self.rnn(x)[0][:, -1])


@case("RNN", must="111", may=MAY, seen="LayerNorm over the last dimension of a series with one feature")
def layer_norm_over_one_feature() -> Given:
    """Layer norm over a single feature makes every step the same."""
    return training.fitted(SeriesOfOne(embedded_first=False), "gru")


@case("RNN", must_not="111")
def layer_norm_after_the_embedding() -> Given:
    """The same series, embedded in 16 features before it is normalised."""
    return training.fitted(SeriesOfOne(embedded_first=True), "gru")


@case("MLP", must_not="111 103")
def one_group_for_a_vector() -> Given:
    """GroupNorm with one group: layer norm over 48 features."""
    return training.trained("mlp", "group")


@case("CNN", must_not="111")
def groups_of_pooled_channels() -> Given:
    """Four groups of six channels on the pooled map."""
    return training.fitted(Excited(4), "cnn")


@case("CNN", must_not="111")
def instance_norm_of_maps() -> Given:
    """As many groups as channels, on maps of 8 × 8 and 4 × 4."""
    return training.fitted(networks.Cnn(lambda channels, _: nn.GroupNorm(channels, channels)), "cnn")
