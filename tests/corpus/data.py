"""The data: scikit-learn's digits as images, vectors and sequences of rows, its tables, and synthetic signals."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

Batches = list[tuple[Tensor, Tensor]]
SIZE = 64
"""Samples in a batch, where a case does not say otherwise."""
HELD_OUT = 480
"""How many of the digits are kept from training."""


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    order = torch.randperm(1797, generator=torch.Generator().manual_seed(1))
    bunch = load_digits()
    return torch.tensor(bunch.data, dtype=torch.float32)[order], torch.tensor(bunch.target)[order]


def raw_digits() -> tuple[Tensor, Tensor]:
    """All digits as (1797, 64) grey values from 0 to 16, shuffled."""
    images, labels = _digits()
    return images.clone(), labels.clone()


def digits(shape: str = "image") -> tuple[Tensor, Tensor]:
    """All digits with mean 0 and standard deviation 1: "image" 1×8×8, "large" 1×16×16, "flat" 64, "rows" 8×8."""
    images, labels = raw_digits()
    images = (images - images.mean()) / images.std()
    match shape:
        case "flat":
            return images, labels
        case "rows":
            return images.reshape(-1, 8, 8), labels
        case "image":
            return images.reshape(-1, 1, 8, 8), labels
    return F.interpolate(images.reshape(-1, 1, 8, 8), scale_factor=2.0, mode="nearest"), labels


def split(data: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What is trained on, and what is held out."""
    x, y = data
    held = min(HELD_OUT, len(x) // 4)
    return (x[held:], y[held:]), (x[:held], y[:held])


def batches(data: tuple[Tensor, Tensor], size: int = SIZE, most: int | None = None) -> Batches:
    """Whole batches in the given order, as copies; a remainder is left out."""
    x, y = data
    count = len(x) // size if most is None else min(most, len(x) // size)
    parts = [slice(i * size, (i + 1) * size) for i in range(count)]
    return [(x[part].clone(), y[part].clone()) for part in parts]


def table(name: str, *, scaled: bool = True) -> tuple[Tensor, Tensor]:
    """scikit-learn's "wine", "breast_cancer" or "diabetes", shuffled; scaled to mean 0 and deviation 1 or as it is."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    order = torch.randperm(len(bunch.data), generator=torch.Generator().manual_seed(1))
    x = torch.tensor(bunch.data, dtype=torch.float32)[order]
    y = torch.tensor(bunch.target)[order]
    if name == "diabetes":
        y = ((y - y.mean()) / y.std()).float()[:, None]
    return ((x - x.mean(0)) / x.std(0) if scaled else x), y


def tokens(samples: int = 640, length: int = 16, shortest: int = 16) -> tuple[Tensor, Tensor]:
    """Sentences of words 1 … 20, padded with 0; the label says whether the words above 10 are the more frequent."""
    generator = torch.Generator().manual_seed(2)
    shares = torch.rand(samples, 1, generator=generator)
    high = torch.rand(samples, length, generator=generator) < shares
    words = torch.randint(1, 11, (samples, length), generator=generator) + 10 * high
    lengths = torch.randint(shortest, length + 1, (samples, 1), generator=generator)
    words = words.where(torch.arange(length) < lengths, 0)
    return words, ((words > 10).sum(1) > ((words > 0) & (words <= 10)).sum(1)).long()


def squares(samples: int = 640, size: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy images (1, size, size) with a bright rectangle, and the mask of the rectangle."""
    generator = torch.Generator().manual_seed(3)
    corner = torch.randint(0, size // 2, (samples, 2, 1), generator=generator)
    extent = torch.randint(4, size // 2 + 1, (samples, 2, 1), generator=generator)
    line = torch.arange(size)
    inside = (line >= corner) & (line < corner + extent)
    mask = (inside[:, 0, :, None] & inside[:, 1, None, :]).float()[:, None]
    images = 2 * mask + torch.randn(samples, 1, size, size, generator=generator)
    return (images - images.mean()) / images.std(), mask


def gaussian(samples: int = 1280, features: int = 16, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Normal features of mean 0 and deviation 1; the label is which of `classes` random directions fits best."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(samples, features, generator=generator)
    return x, (x @ torch.randn(features, classes, generator=generator)).argmax(1)
