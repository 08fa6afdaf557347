"""The embedded task `shapes`: coloured outlines and areas in noise, 3×32×32, drawn from a seed."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith.tasks.metrics import accuracy
from normsmith.tasks.task import Task

SIZE = 32
CLASSES = ("disc", "ring", "square", "frame", "triangle", "cross", "star", "bars")
_NOISE = 0.15  # standard deviation, where the two colours of an image lie 0.4 to 1.2 apart in each channel


@cache
def shapes() -> Task:
    """Three convolutions on drawn shapes under noise, for what 8×8 pixels are too few for; no download.

    Eight classes: disc, ring, square, frame, triangle, cross, star, bars. Each image has one of them at a random place,
    in a random size, turned by a random angle, in a random light colour on a random dark one, so that no pixel tells
    the class: a logistic regression on the pixels gets 42 % of the test images right. Inputs are (N, 3, 32, 32) float32
    between −1.5 and 1.5; 1,600 images to train on, 400 each for validation and test, of all classes as many, drawn from
    fixed seeds. Layers have torch's default initialisation. Activations to try: ReLU, tanh, sigmoid; target 80 %
    accuracy; 300 steps of batch 64 (12 epochs).

    >>> task = shapes()
    >>> len(task.train), len(task.validation), len(task.test)
    (1600, 400, 400)
    """
    return Task(
        model=_network,
        train=_images(1600, seed=0),
        validation=_images(400, seed=1),
        test=_images(400, seed=2),
        loss=F.cross_entropy,
        metric=accuracy,
        name="shapes",
        description="three convolutions on drawn shapes, 3×32×32",
        batch_size=64,
        steps=300,
        target=0.8,
        activations=("relu", "tanh", "sigmoid"),
    )


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, len(CLASSES)),
    )


def _images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and their classes (N,), as many of each class as of any other."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = (torch.arange(count) % len(CLASSES))[torch.randperm(count, generator=generator)]
    inside = _inside(labels, *_coordinates(uniform(8, 12), uniform(-4, 4, 2), uniform(0, 2 * math.pi)))
    ground, ink = uniform(-0.8, -0.2, 3), uniform(0.2, 0.8, 3)
    clean = torch.where(inside[:, None], ink[..., None, None], ground[..., None, None])
    return clean + _NOISE * torch.randn(clean.shape, generator=generator), labels


def _coordinates(radius: Tensor, centre: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel lies as the shape of each image sees it: turned, its radius 1; two of (N, 32, 32)."""
    pixels = torch.arange(SIZE) - (SIZE - 1) / 2
    dy = pixels[None, :, None] - centre[:, 1, None, None]
    dx = pixels[None, None, :] - centre[:, 0, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    scale = radius[:, None, None]
    return (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale


def _inside(labels: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which pixels (N, 32, 32) are within the shape of each image's class."""
    far, square = (x.square() + y.square()).sqrt(), torch.maximum(x.abs(), y.abs())
    turned = torch.atan2(y, x)
    triangle = torch.maximum(-y, (y + math.sqrt(3) * x.abs()) / 2) < 0.5
    areas = torch.stack(
        [
            far < 0.8,
            (far > 0.6) & (far < 1.0),
            square < 0.7,
            (square > 0.5) & (square < 0.85),
            triangle,
            (square < 0.95) & (torch.minimum(x.abs(), y.abs()) < 0.28),
            far < 0.65 + 0.35 * (5 * turned).cos(),
            (square < 0.85) & ((x.abs() > 0.5) | (x.abs() < 0.17)),
        ]
    )
    return areas[labels, torch.arange(len(labels))]
