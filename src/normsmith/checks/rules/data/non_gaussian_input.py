"""Features of the input are skewed or have heavy tails: a mean and a variance say little of them.

What: skewness, excess kurtosis and the share of outliers of each feature of a table that reaches the first layer, or of
    each channel of images and sequences. It is reported where a tenth of them or more are far from normal, and is
    information only. Of images and sequences only the tails are looked at, since a background makes any image skewed.
    Flattened images are left out; they are recognised by a largest value (white) that a quarter of the features share.
    Also left out are features that are constant, have only two values, or have one value, as 0 or a background, more
    often than all others together.

Formula: with z = (x − μ)/σ for a feature's mean μ and standard deviation σ, means E over n samples, and 2.58 standard
    errors (99 %) for chance: |E z³| > 2 + 2.58·sqrt(6/n) (skewness), or E z⁴ − 3 > 7 + 2.58·sqrt(24/n) (excess
    kurtosis). The values of one image or sequence resemble each other, so n is the number of images or sequences, not
    of values. Outliers are values beyond 3 interquartile ranges from the quartiles.

Why it hurts: standardisation leaves the shape as it is. A few huge values take all of the variance, and the many others
    lie together near one point; a batch that happens to hold one of them has other statistics than one without.

Threshold: 2 and 7, beyond which estimates that assume normal data go wrong (West, Finch and Curran 1995); a tenth of
    the features is our own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    incomes = [torch.exp(1.5 * torch.randn(64, 4)) * 1000 for _ in range(8)]
    findings = normsmith.check(model, incomes, select=["NS402"])
    assert findings.codes == ("NS402",)
    assert findings.passed()  # it is information
    assert not normsmith.check(model, [x.log1p() for x in incomes], select=["NS402"]).found

Fix: for values of 0 and above, as amounts and counts, a logarithm before the network:
    `incomes = [x.log1p() for x in incomes]`. For others scikit-learn's `PowerTransformer`, whose default (Yeo-Johnson)
    takes negative values, or its `QuantileTransformer`, fitted on the training data. Then train again.

Threads: ageron/handson-ml#423, MannLabs/alphadia#869, scikit-learn/scikit-learn#8363, graphnet-team/graphnet#324.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from normsmith._text import count, number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.inputs import dense
from normsmith.checks.rule import Rule

SKEWNESS = 2.0
KURTOSIS = 7.0
SHARE = 0.1
_CERTAIN = 2.58
_FEWEST = 100
_ONE_RANGE = 0.25
_MOSTLY = 0.5
_COUNTED = 4096
"""Values of a feature among which the most frequent one, and quantiles, are looked for."""
_FIX = Fix("x.log1p() for values of 0 and above, or scikit-learn's PowerTransformer, before the network")


def check(context: Context) -> Iterator[Finding]:
    """A finding for the first layer, if features of its table are far from normal."""
    path, values = context.first_inputs
    samples = min(context.rows * len(context.measured), len(values))
    of_positions = len(values) > samples
    if samples < _FEWEST:
        raise UnavailableError(f"expected at least {_FEWEST} samples, got {samples}")
    values = values[:, dense(values)]
    values = values[:, ~_has_background(values)]
    if values.shape[1] == 0 or (not of_positions and _is_one_range(values)):
        return
    skewness, kurtosis = shape_of(values)
    skewed = skewness.abs() > SKEWNESS + _CERTAIN * math.sqrt(6 / samples)
    heavy = kurtosis > KURTOSIS + _CERTAIN * math.sqrt(24 / samples)
    share = float((heavy if of_positions else skewed | heavy).double().mean())
    if share >= SHARE:
        kind = "channel" if of_positions else "feature"
        yield Finding(
            path,
            f"{number(100 * share, 2)} % of {count(values.shape[1], kind)} are far from normal: skewness up to "
            f"{number(float(skewness.abs().max()))}, excess kurtosis up to {number(float(kurtosis.max()))}, "
            f"{number(100 * _outliers(values), 2)} % outliers",
            "amounts, counts, durations or sensors with rare large values",
            _FIX,
            quantity="share of features",
            measured=share,
            threshold=SHARE,
            batches=len(context.measured),
        )


def shape_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Skewness and excess kurtosis of each column."""
    z = (values - values.mean(0)) / values.std(0, correction=0)
    return z.pow(3).mean(0), z.pow(4).mean(0) - 3


def _has_background(values: Tensor) -> Tensor:
    """Which features have one value, as of padding or a background, more often than all others; (features,)."""
    if not values.shape[1]:
        return torch.zeros(0, dtype=torch.bool)
    some = _some(values, _COUNTED)
    return (some == some.mode(0).values).double().mean(0) > _MOSTLY


def _is_one_range(values: Tensor) -> bool:
    """Whether a quarter of the features have the same largest value, as the pixels of flattened images do."""
    largest = values.max(0).values
    return int((largest == largest.max()).sum()) >= max(2, _ONE_RANGE * len(largest))


def _some(values: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly."""
    return values[:: -(-len(values) // most)]


def _outliers(values: Tensor) -> float:
    some = _some(values, _COUNTED)
    low, high = some.quantile(0.25, 0), some.quantile(0.75, 0)
    reach = 3 * (high - low)
    return float(((values < low - reach) | (values > high + reach)).double().mean())


RULE = Rule("NS402", "non-gaussian-input", "info", check, __doc__, needs=("batches",))
