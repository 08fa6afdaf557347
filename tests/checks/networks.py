"""Small networks of several kinds, data that they can learn, and a training loop, for the tests of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batches = list[tuple[Tensor, Tensor]]


def vectors(count: int = 16, size: int = 32, features: int = 8, seed: int = 0) -> Batches:
    """Batches of vectors; the label says on which side of 0 the first two features are together."""
    draw = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, features, generator=draw) for _ in range(count)]
    return [(x, (x[:, 0] + x[:, 1] > 0).long()) for x in inputs]


def images(count: int = 16, size: int = 16, side: int = 8, channels: int = 3, seed: int = 0) -> Batches:
    """Batches of images; the label says whether the first channel is brighter on the left."""
    draw = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, channels, side, side, generator=draw) for _ in range(count)]
    half = side // 2
    return [(x, (x[:, 0, :, :half].mean((1, 2)) > x[:, 0, :, half:].mean((1, 2))).long()) for x in inputs]


def sequences(count: int = 16, size: int = 32, length: int = 5, features: int = 8, seed: int = 0) -> Batches:
    """Batches of sequences (N, T, C); the label says whether the first feature grows."""
    draw = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, length, features, generator=draw) for _ in range(count)]
    return [(x, (x[:, -1, 0] > x[:, 0, 0]).long()) for x in inputs]


def mlp(**options: Any) -> nn.Sequential:
    """Two hidden layers with batch norm; `options` are those of the norms."""
    return nn.Sequential(
        nn.Linear(8, 16, bias=False),
        nn.BatchNorm1d(16, **options),
        nn.ReLU(),
        nn.Linear(16, 16, bias=False),
        nn.BatchNorm1d(16, **options),
        nn.ReLU(),
        nn.Linear(16, 2),
    )


def cnn(**options: Any) -> nn.Sequential:
    """Two convolutions with batch norm and a global pooling."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8, **options),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8, **options),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 2),
    )


class Residual(nn.Module):
    """A stem and a residual block, whose last norm may start at γ = 0."""

    def __init__(self, zero: bool = False, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, **options))
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8, **options)
        self.head = nn.Linear(8 * 16, 2)
        if zero:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.norm(self.conv(x)))
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


class Recurrent(nn.Module):
    """A GRU over sequences, with a batch norm on its last state."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.cells = nn.GRU(8, 16, batch_first=True)
        self.norm = nn.BatchNorm1d(16, **options)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.cells(x)[0][:, -1]))


class Attention(nn.Module):
    """One block of a transformer with batch norms over (N, C, T), and the mean over time."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first = nn.BatchNorm1d(8, **options)
        self.forward_ = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.second = nn.BatchNorm1d(8, **options)
        self.head = nn.Linear(8 * 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.first(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.forward_(x)
        x = self.second(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.flatten(1))


KINDS: dict[str, tuple[Callable[..., nn.Module], Callable[..., Batches]]] = {
    "an MLP": (mlp, vectors),
    "a CNN": (cnn, images),
    "a residual CNN": (Residual, images),
    "a recurrent network": (Recurrent, sequences),
    "a transformer block": (Attention, sequences),
}
"""Each kind of network with its data."""


def trained(model: nn.Module, batches: Sequence[Any], epochs: int = 12, rate: float = 0.01) -> nn.Module:
    """The model after some epochs of Adam."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model
