"""Noise after norms: its distribution, and that it is there in training alone."""

import copy

import cloudpickle
import pytest
import torch
from tests.studies.tiny import task
from torch import nn

from normsmith.layers import BatchNorm1d
from normsmith.studies.noise import noise_after_norms


def test_outputs_are_shifted_and_scaled_by_other_numbers_at_every_step():
    model = noise_after_norms(nn.Sequential(nn.Linear(3, 50), BatchNorm1d(50)), task)
    x = torch.randn(2000, 3)
    first, second = model(x).detach(), model(x).detach()
    assert not torch.allclose(first.mean(0), second.mean(0), atol=0.05)
    means, stds = torch.cat([first.mean(0), second.mean(0)]), torch.cat([first.std(0), second.std(0)])
    assert means.abs().max() < 0.52
    assert means.std() == pytest.approx(1 / 12**0.5, rel=0.3)  # uniform, one wide
    assert stds.min() > 0.97
    assert stds.max() < 1.3
    assert stds.mean() == pytest.approx(1.13, abs=0.03)


def test_evaluation_has_none_and_copies_keep_theirs():
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    noisy = noise_after_norms(copy.deepcopy(plain), task)
    x = torch.randn(4, 1, 5, 5)
    assert torch.equal(noisy.eval()(x), plain.eval()(x))
    for other in (copy.deepcopy(noisy), cloudpickle.loads(cloudpickle.dumps(noisy))):
        assert not torch.equal(other.train()(x), plain.train()(x))
