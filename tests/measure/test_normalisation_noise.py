"""Normalisation noise: known for independent normal values."""

import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d
from normsmith.measure import normalisation_noise


@pytest.mark.parametrize("size", [8, 32, 128])
def test_noise_falls_with_the_root_of_the_batch(size):
    batches = torch.randn(60, size, 16)
    noise = normalisation_noise(nn.BatchNorm1d(16), batches)[""]
    assert noise == pytest.approx((1.5 / size) ** 0.5, rel=0.12 if size == 8 else 0.06)


def test_ghost_batches_are_as_noisy_as_batches_of_their_size():
    batches = torch.randn(40, 64, 16)
    ghost = normalisation_noise(BatchNorm1d(16, ghost_batch_size=16), batches)[""]
    assert ghost == pytest.approx((1.5 / 16) ** 0.5, rel=0.06)


def test_the_same_batch_again_and_again_is_the_population():
    batch = torch.randn(16, 4)
    noise = normalisation_noise(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), iter([batch, batch]))
    assert noise["1"] < 0.04  # the variance of the population is unbiased: √(16 / 15)


def test_running_statistics_do_not_matter():
    model, batches = nn.BatchNorm1d(4), list(torch.randn(5, 8, 4))
    first = normalisation_noise(model, batches)
    model.running_mean.fill_(100.0)
    assert normalisation_noise(model, batches) == pytest.approx(first)


def test_without_a_batch_there_is_nothing_to_say():
    with pytest.raises(InputError, match="at least one batch"):
        normalisation_noise(nn.BatchNorm1d(2), [])
