"""How far statistics are apart, and what sampling alone does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from normsmith.checks.finding import UnavailableError
from normsmith.checks.moments import Call
from normsmith.checks.shift import MEAN, Noise, Shift, noise_of, noise_of_pairs, shift


def calls(batches: int, values: int, channels: int, seed: int = 0, offset: float = 0.0) -> list[Call]:
    """Batches of independent values of mean `offset` and variance 1."""
    draw = torch.Generator().manual_seed(seed)
    x = offset + torch.randn(batches, values, channels, generator=draw).double()
    return [Call(n, 0, values, one.mean(0), one.var(0)) for n, one in enumerate(x)]


def average(some: list[Call]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([one.mean for one in some]).mean(0), torch.stack([one.var for one in some]).mean(0)


def apart(values: int, seed: int, offset: float = 0.0):
    one, other = calls(8, values, 64, 2 * seed), calls(8, values, 64, 2 * seed + 1, offset)
    return shift(average(one), average(other), 0.0, noise_of(other, 0.0), 2 / 8)


@pytest.mark.parametrize("values", [4, 16, 64, 1024])
def test_what_is_the_same_is_not_apart(values):
    assert not any(apart(values, seed).counts for seed in range(20))


@pytest.mark.parametrize("values", [16, 64, 1024])
def test_half_a_deviation_is(values):
    assert all(apart(values, seed, 0.5).counts for seed in range(20))


def test_few_values_prove_little():
    assert not any(apart(4, seed, 0.15).counts for seed in range(20))
    assert all(apart(4096, seed, 0.15).counts for seed in range(20))


def test_a_tenth_is_allowed_whatever_the_sample():
    assert not any(apart(20_000, seed, 0.08).counts for seed in range(3))


def test_variances_count_too():
    one = calls(8, 512, 32)
    mean, var = average(one)
    found = shift((mean, 1.5 * var), (mean, var), 0.0, noise_of(one, 0.0), 1 / 8)
    assert found.counts
    assert "variances by a factor of up to 1.5" in found.text


def test_epsilon_covers_dead_channels():
    zero = torch.zeros(4).double()
    some = [Call(n, 0, 8.0, zero, zero + 1e-12) for n in range(4)]
    found = shift((zero, zero + 1e-9), (zero, zero + 1e-12), 1e-5, noise_of(some, 1e-5), 0.5)
    assert not found.counts


def test_the_noise_of_batches_tells_how_many_values_they_are_worth():
    assert noise_of(calls(64, 50, 64), 0.0).values == pytest.approx(50, rel=0.35)


def test_what_batches_differ_by_is_no_noise_of_pairs():
    one = calls(6, 16, 32)
    wider = [replace(call, var=1.4 * call.var) for call in one]
    assert float(noise_of_pairs(wider, one, 0.0).log_variance.max()) == pytest.approx(0, abs=1e-12)
    of_pairs = shift(average(wider), average(one), 0.0, noise_of_pairs(wider, one, 0.0), 1 / 6)
    assert of_pairs.share == 1
    assert shift(average(wider), average(one), 0.0, noise_of(one, 0.0), 2 / 6).share == 0


def test_pairs_of_unrelated_batches_are_not_apart():
    for seed in range(20):
        one, other = calls(8, 64, 64, 2 * seed), calls(8, 64, 64, 2 * seed + 1)
        noise = noise_of_pairs(one, other, 0.0)
        assert not shift(average(one), average(other), 0.0, noise, 1 / 8).counts


def test_two_batches_are_too_few():
    for noise in (noise_of, lambda some, epsilon: noise_of_pairs(some, some, epsilon)):
        with pytest.raises(UnavailableError, match="at least 3 batches to tell a shift from noise, got 2"):
            noise(calls(2, 8, 4), 0.0)


def test_all_channels_are_told_by_their_quantiles_with_their_sign():
    away = Shift(torch.linspace(-1, 1, 21), torch.zeros(21), torch.ones(21, dtype=torch.bool))
    told = away.to_dict("these", "those")["channels"]
    assert told["mean"] == pytest.approx([-1.0, -0.9, -0.5, 0.0, 0.5, 0.9, 1.0], abs=1e-6)
    assert told["variance"] == [1.0] * 7
    assert told["allowed"]["mean"] == [-MEAN, MEAN]


def test_averages_of_the_variances_of_parts_lack_what_their_means_differ_by():
    parts = (
        torch.randn(4, 1000, 10, generator=torch.Generator().manual_seed(0)) + torch.arange(4)[:, None, None]
    )
    values = parts.flatten(0, 1)
    truth, noise = (values.mean(0), values.var(0)), Noise(torch.zeros(10), torch.zeros(10), 8)
    averaged = parts.mean((0, 1)), parts.var(1).mean(0)
    assert shift(averaged, truth, 0.0, noise, 0.0).lacks_variance
    assert not shift(truth, truth, 0.0, noise, 0.0).lacks_variance
    assert not shift((truth[0], 2 * truth[1]), truth, 0.0, noise, 0.0).lacks_variance
    assert not shift((truth[0] + 1, averaged[1]), truth, 0.0, noise, 0.0).lacks_variance
