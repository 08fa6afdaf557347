"""How far two sets of statistics are apart, channel by channel, and whether that is more than sampling does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normsmith._text import number
from normsmith.checks.finding import UnavailableError
from normsmith.checks.moments import Call

MEAN = 0.1
"""How far means may be apart, in standard deviations."""
LOG_VARIANCE = 0.2
"""How far logarithms of variances may be apart: a fifth more or less variance."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Those by which the channels of a layer are drawn."""

CHANNELS = 0.1
"""The share of a layer's channels that has to be further apart before it counts."""
_CERTAIN = 2.58
"""Standard errors: 99 % of channels that are the same stay within so many."""
_FEWEST = 3


@dataclass(frozen=True, eq=False)
class Shift:
    """How far statistics are apart: `mean_by` is Δμ/σ, `log_variance_by` is Δ log σ², each (channels,).

    `beyond` says of each channel whether one of them is larger than allowed and sampling could explain.
    """

    mean_by: Tensor
    log_variance_by: Tensor
    beyond: Tensor

    @property
    def mean(self) -> Tensor:
        """|Δμ|/σ, (channels,)."""
        return self.mean_by.abs()

    @property
    def log_variance(self) -> Tensor:
        """|Δ log σ²|, (channels,)."""
        return self.log_variance_by.abs()

    @property
    def share(self) -> float:
        """The share of the channels that are beyond."""
        return float(self.beyond.double().mean())

    @property
    def counts(self) -> bool:
        """Whether so many channels are beyond that it counts."""
        return self.share >= CHANNELS

    @property
    def lacks_variance(self) -> bool:
        """Whether the first variances are too small, and the means fit.

        So are averages of the variances of parts (models, shards, batches of one kind each) whose means differ: what
        they differ by is in the mean, and in no variance. Of the corpus's networks with stale statistics none is taken
        for one; of the first norms of three clients whose statistics were averaged all are that are stale, but hardly
        any once the clients have trained on by themselves.
        """
        means_off = (self.mean[self.beyond] > MEAN).double().mean()
        return (
            self.counts
            and float(means_off) < CHANNELS
            and bool((self.log_variance_by[self.beyond] < 0).all())
        )

    @property
    def text(self) -> str:
        """In words: how many channels, and the largest differences among them."""
        mean, factor = self.mean[self.beyond].max(), self.log_variance[self.beyond].max().exp()
        return (
            f"in {number(100 * self.share, 2)} % of {len(self.beyond)} channels, means by up to "
            f"{number(float(mean), 2)} σ, variances by a factor of up to {number(float(factor), 2)}"
        )

    def to_dict(self, what: str, of: str) -> dict[str, Any]:
        """How the channels lie, by their quantiles, as plain data for a picture; `what` differs from `of`, in words."""
        return {
            "channels": {
                "what": what,
                "of": of,
                "mean": _quantiles(self.mean_by),
                "variance": _quantiles(self.log_variance_by.exp()),
                "allowed": {
                    "mean": [-MEAN, MEAN],
                    "variance": [math.exp(-LOG_VARIANCE), math.exp(LOG_VARIANCE)],
                },
            }
        }


def _quantiles(values: Tensor) -> list[float]:
    levels = torch.tensor(QUANTILES, dtype=torch.float64, device=values.device)
    return [float(value) for value in torch.quantile(values.double().nan_to_num(), levels)]


@dataclass(frozen=True, eq=False)
class Noise:
    """By how much statistics of single batches vary: the variances of the mean, in σ², and of log σ²; (channels,).

    Few batches say little about one channel, so that no channel counts as quieter than all are together.
    """

    mean: Tensor
    log_variance: Tensor
    batches: int

    @property
    def values(self) -> float:
        """The number of independent values per channel that would vary as much: 1 / the variance of the mean."""
        return 1 / max(float(self.mean.min()), 1e-12)


def noise_of(calls: Sequence[Call], epsilon: float) -> Noise:
    """How much the statistics of batches vary, from the calls of a layer.

    Raises:
        UnavailableError: fewer than 3 batches reached the layer.

    >>> one = [Call(b, 0, 8.0, torch.tensor([float(b)]), torch.ones(1)) for b in range(4)]
    >>> noise_of(one, 0.0).mean
    tensor([1.6667], dtype=torch.float64)
    """
    batches = sorted({call.batch for call in calls})
    if len(batches) < _FEWEST:
        raise UnavailableError(
            f"expected at least {_FEWEST} batches to tell a shift from noise, got {len(batches)}"
        )
    means, logs = [], []
    for batch in batches:
        same = [call for call in calls if call.batch == batch]
        means.append(torch.stack([call.mean for call in same]).mean(0))
        logs.append(torch.stack([(call.var + epsilon).log() for call in same]).nanmean(0))
    within = torch.stack([call.var for call in calls]).nanmean(0).double() + epsilon
    means_, logs_ = torch.stack(means).double(), torch.stack(logs).double()
    return Noise(
        _at_least_pooled(means_.var(0) / within),
        _at_least_pooled(logs_.nan_to_num(neginf=0.0).var(0)),
        len(batches),
    )


def noise_of_pairs(ones: Sequence[Call], others: Sequence[Call], epsilon: float) -> Noise:
    """How much the differences between statistics of the same batches vary, which came to a layer twice.

    What batches differ by is in both, and no noise of the difference.

    Raises:
        UnavailableError: fewer than 3 batches reached the layer.

    >>> one = [Call(b, 0, 8.0, torch.tensor([float(b)]), torch.ones(1)) for b in range(4)]
    >>> noise_of_pairs(one, one, 0.0).mean
    tensor([0.], dtype=torch.float64)
    """
    other_of = {(call.batch, call.number): call for call in others}
    pairs = [(call, other_of[key]) for call in ones if (key := (call.batch, call.number)) in other_of]
    if len(pairs) < _FEWEST:
        raise UnavailableError(
            f"expected at least {_FEWEST} batches to tell a shift from noise, got {len(pairs)}"
        )
    means = torch.stack([(one.mean - other.mean) / (other.var + epsilon).sqrt() for one, other in pairs])
    logs = torch.stack([((one.var + epsilon) / (other.var + epsilon)).log() for one, other in pairs])
    mean, log_variance = (part.double().nan_to_num(neginf=0.0).var(0) for part in (means, logs))
    return Noise(_at_least_pooled(mean), _at_least_pooled(log_variance), len(pairs))


def shift(
    one: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    epsilon: float,
    noise: Noise,
    weight: float,
) -> Shift:
    """How far two (mean, variance) are apart, in standard deviations of the second.

    Args:
        noise: how much single batches vary.
        weight: the variance of the difference, in variances of a single batch: 1/n for each of two averages of n.
    """
    (mean, var), (of_mean, of_var) = one, other
    sigma2 = of_var.double() + epsilon
    apart = (mean.double() - of_mean.double()) / sigma2.sqrt()
    logs = (var.double() + epsilon).clamp(min=1e-30).log() - sigma2.clamp(min=1e-30).log()
    errors = [_CERTAIN * (weight * part).sqrt() for part in (noise.mean, noise.log_variance)]
    return Shift(apart, logs, (apart.abs() > MEAN + errors[0]) | (logs.abs() > LOG_VARIANCE + errors[1]))


def _at_least_pooled(values: Tensor) -> Tensor:
    return torch.maximum(values, values.mean())
