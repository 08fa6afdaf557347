"""The drawn shapes: the same everywhere, balanced, and beyond a linear model."""

import math

import pytest
import torch
from torch import nn

from normsmith.surgery import insert
from normsmith.tasks import accuracy, build, shapes
from normsmith.tasks.shapes import CLASSES, SIZE, _inside


def split(name):
    return shapes().dataset(name).tensors


def test_splits_differ_and_have_all_classes_alike():
    sizes = {"train": 1600, "validation": 400, "test": 400}
    for name, size in sizes.items():
        images, labels = split(name)
        assert images.shape == (size, 3, SIZE, SIZE)
        assert images.dtype == torch.float32
        assert images.abs().max() < 1.5
        assert torch.bincount(labels).tolist() == [size // len(CLASSES)] * len(CLASSES)
    assert not torch.equal(split("validation")[0], split("test")[0])


def test_images_are_those_of_the_seed():
    """If these change, so do the results of everybody's studies."""
    images, labels = split("train")
    assert labels[:8].tolist() == [4, 0, 7, 2, 3, 5, 7, 1]
    assert images.double().mean().item() == pytest.approx(-0.32113, abs=1e-4)


def test_a_linear_model_stays_below_70_percent():
    """Ridge regression onto the classes, by its kernel: as good as logistic regression here, in one solution."""
    images, labels = split("train")
    mean = images.mean(0)
    known, new = ((part - mean).flatten(1) for part in (images, split("test")[0]))
    targets = nn.functional.one_hot(labels).float() - 1 / len(CLASSES)
    kernel = known @ known.T
    best = 0.0
    for strength in (0.1, 1.0, 10.0):
        ridge = strength * kernel.diagonal().mean() * torch.eye(len(kernel))
        best = max(
            best, accuracy(new @ known.T @ torch.linalg.solve(kernel + ridge, targets), split("test")[1])
        )
    assert 2 / len(CLASSES) < best < 0.7


def test_every_class_has_a_shape_of_its_own():
    pixels = torch.linspace(-1.2, 1.2, 48)
    x, y = pixels.repeat(8, 48, 1), pixels[:, None].repeat(8, 1, 48)
    drawn = _inside(torch.arange(8), x, y)
    shares = drawn.float().mean((1, 2))
    assert shares.min() > 0.15
    assert shares.max() < 0.6
    disc = shares[0] * 2.4**2
    assert float(disc) == pytest.approx(math.pi * 0.8**2, rel=0.05)
    overlaps = [(drawn[i] ^ drawn[j]).float().mean() for i in range(8) for j in range(i)]
    assert min(overlaps) > 0.05


def test_surgery_works_on_it():
    model = build(shapes(), 0)
    insert(model, "batch").apply()
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model) == 3
