"""The embedded task `digits-cnn` with the norms that a library's network has: convolution, batch norm, ReLU."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from normsmith.tasks import digits_cnn


def network() -> nn.Module:
    """The network of `digits-cnn`, with a batch norm after each convolution, which then needs no bias."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


task = replace(
    digits_cnn(),
    name="digits-cnn-with-norms",
    description="three convolutions, each with a batch norm, on scikit-learn's digits",
    model=network,
)
