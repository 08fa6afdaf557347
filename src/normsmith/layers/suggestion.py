"""Which of scikit-learn's transforms raw features need before standardisation, with the reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from normsmith._extras import imports_of_extra
from normsmith._text import count
from normsmith.errors import InputError
from normsmith.layers.batches import Select, tensor_of_batch

Choice = Literal["standard", "robust", "power", "quantile"]

SKEWED = 1.0
"""|Skewness| above which a feature is called skewed (normal 0, exponential 2)."""
HEAVY = 4.0
"""Excess kurtosis above which tails are called heavy (normal 0, Laplace 3, exponential 6)."""
FENCE = 3.0
"""Outliers lie this many interquartile ranges outside the quartiles: Tukey's "far out"."""
MANY_OUTLIERS = 0.05
"""Share of outliers up to which the rest is a core worth scaling by (Student's t with 3 degrees 0.012, Cauchy 0.09)."""
SKEWED_CORE = 0.75
"""|Skewness| without the outliers above which the core itself is skewed, not just its tails heavy."""
CURED = 0.5
"""|Skewness| that a power transform may leave; excess kurtosis may be left at twice as much."""
FEWEST = 100
"""Values below which skewness and kurtosis say nothing (their standard errors are 0.24 and 0.49 at 100)."""
FEW_DISTINCT = 10
"""A feature with no more different values than this is a category or a count, not a continuous quantity."""


@dataclass(frozen=True)
class FeatureSuggestion:
    """What was measured of a feature, which transform it should get, and why."""

    feature: int
    skewness: float
    excess_kurtosis: float
    outliers: float
    choice: Choice
    reason: str


@dataclass(frozen=True)
class Suggestion:
    """The suggestions of all features; `print` it for a table."""

    features: tuple[FeatureSuggestion, ...]
    values: int
    """Values per feature that were looked at."""

    @property
    def needed(self) -> bool:
        """Whether any feature needs more than standardisation, which `InputNorm` does."""
        return any(feature.choice != "standard" for feature in self.features)

    def transformer(self) -> Any:
        """The suggestion as scikit-learn's transformer, not fitted yet.

        A `StandardScaler`, `RobustScaler`, `PowerTransformer` (Yeo-Johnson) or `QuantileTransformer` (to a normal
        distribution); a `ColumnTransformer` of them, in the order of the features, where features differ. Fit it
        on the training set alone.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        runs: list[tuple[Choice, list[int]]] = [
            (choice, [feature.feature for feature in run])
            for choice, run in groupby(self.features, key=lambda feature: feature.choice)
        ]
        if len(runs) == 1:
            return self._transformer_for(runs[0][0])
        steps = [
            (f"{choice}_{columns[0]}", self._transformer_for(choice), columns) for choice, columns in runs
        ]
        return _sklearn("compose").ColumnTransformer(steps)

    def _transformer_for(self, choice: Choice) -> Any:
        """The transformer of scikit-learn for one kind of feature."""
        preprocessing = _sklearn("preprocessing")
        if choice == "quantile":
            return preprocessing.QuantileTransformer(
                n_quantiles=min(1000, self.values), output_distribution="normal", random_state=0
            )
        kinds = {"standard": "StandardScaler", "robust": "RobustScaler", "power": "PowerTransformer"}
        return getattr(preprocessing, kinds[choice])()

    def __str__(self) -> str:
        lines = [f"{'feature':>7}  {'skewness':>8}  {'kurtosis':>8}  {'outliers':>8}  suggestion"]
        lines += [
            f"{f.feature:>7}  {f.skewness:>8.2f}  {f.excess_kurtosis:>8.2f}  {f.outliers:>8.2%}  "
            f"{f.choice}: {f.reason}"
            for f in self.features
        ]
        return "\n".join(lines)


def suggestion(
    data: Iterable[Any] | Tensor | Any, select: Select = None, *, dim: int = 1, limit: int = 100_000
) -> Suggestion:
    """Say, per feature, whether a quantile or power transform should come before standardisation, and why.

    Measured per feature: skewness E[z³], excess kurtosis E[z⁴] − 3, and the share of outliers, more than `FENCE`
    interquartile ranges outside the quartiles (Tukey's "far out"). Then, in this order:

    - too few values or too few different ones, or one value in at least half the samples → `standard`
    - |skewness| ≤ `SKEWED` and excess kurtosis ≤ `HEAVY` → `standard`: `InputNorm` is all it needs
    - at most `MANY_OUTLIERS` outliers, and without them |skewness| ≤ `SKEWED_CORE` → `robust`: the outliers would
      set the scale. `RobustScaler` then stands in the place of `InputNorm` (which would undo it), or clip first.
    - a power transform, tried out, leaves |skewness| ≤ `CURED`, excess kurtosis ≤ 2·`CURED` → `power`
    - else → `quantile`

    The thresholds are our own. `tests/layers/test_suggestion.py` holds them to samples of known distributions:
    normal, uniform, two peaks, Laplace → standard; normal with outliers, Student's t (3) → robust; exponential,
    log-normal, χ² → power; Cauchy, both signs over six decades → quantile.

    Args:
        data: tensor or array with the batch first, or batches of a loader.
        select: what of a batch is the input, as in `InputNorm.fit`.
        dim: the axis of the features.
        limit: values per feature to look at: an even choice by a fixed seed where there are more.

    Raises:
        InputError: no data, or NaN or infinite values in them.
        MissingExtraError: scikit-learn is not installed.

    >>> x = torch.distributions.Exponential(1.0).icdf((torch.arange(1000) + 0.5) / 1000)
    >>> print(suggestion(x[:, None]))
    feature  skewness  kurtosis  outliers  suggestion
          0      1.95      5.34     0.90%  power: skewed; a power transform leaves a skewness of 0.11

    Source of the fences: Tukey (1977), "Exploratory Data Analysis"; of the power transform: Yeo and Johnson
    (2000), Biometrika 87(4).
    """
    _sklearn("preprocessing")
    values = _sample(data, select, dim, limit)
    if not np.isfinite(values).all():
        columns = np.flatnonzero(~np.isfinite(values).all(0)).tolist()
        raise InputError(
            f"suggest: expected finite values, got NaN or infinite ones in features {columns[:5]}"
        )
    return Suggestion(tuple(_suggestion_for(n, column) for n, column in enumerate(values.T)), len(values))


def _sklearn(part: str) -> Any:
    """A part of scikit-learn, imported; MissingExtraError where it is not installed."""
    # by name: nothing in layers depends on scikit-learn, this function only hands it out
    with imports_of_extra("study", "suggest"):
        return import_module(f"sklearn.{part}")


def _sample(data: Any, select: Select, dim: int, limit: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Values of shape (values, features): all of them, or `limit` chosen with equal chances, in one pass."""
    generator = torch.Generator().manual_seed(0)
    rows, keys = torch.empty(0), torch.empty(0, dtype=torch.float64)
    for batch in [torch.as_tensor(data)] if isinstance(data, (Tensor, np.ndarray)) else data:
        x = (
            torch.as_tensor(batch)
            if isinstance(batch, np.ndarray)
            else tensor_of_batch(batch, select, "select")
        )
        if x.ndim < 2 or not -x.ndim < dim < x.ndim or dim in (0, -x.ndim):
            raise InputError(
                f"suggest: expected batches of shape (batch, ...) with features along dim={dim}, "
                f"got shape {tuple(x.shape)}"
            )
        new = x.detach().to(device="cpu", dtype=torch.float64).movedim(dim, -1).flatten(0, -2)
        if len(keys) and new.shape[1] != rows.shape[1]:
            raise InputError(f"suggest: expected {rows.shape[1]} features as before, got {new.shape[1]}")
        rows = torch.cat([rows, new]) if len(keys) else new
        keys = torch.cat([keys, torch.rand(len(new), generator=generator, dtype=torch.float64)])
        if len(keys) > limit:  # the smallest of random keys are an even choice from all rows so far
            kept = keys.topk(limit, largest=False).indices
            rows, keys = rows[kept], keys[kept]
    if not len(keys):
        raise InputError("suggest: expected at least one batch with values, got none")
    return rows.numpy()


def _suggestion_for(number: int, x: np.ndarray[Any, np.dtype[np.float64]]) -> FeatureSuggestion:
    """Judge the values of one feature by the rules of `suggestion`, in their order."""
    skewness, kurtosis = _shape(x)
    first, third = np.quantile(x, [0.25, 0.75])
    reach = FENCE * (third - first)
    core = x[(x >= first - reach) & (x <= third + reach)]
    outliers = 1 - len(core) / len(x)

    def choose(choice: Choice, reason: str) -> FeatureSuggestion:
        return FeatureSuggestion(number, skewness, kurtosis, outliers, choice, reason)

    unclear = _why_unclear(x, reach)
    if unclear is not None:
        return choose("standard", unclear)
    if abs(skewness) <= SKEWED and kurtosis <= HEAVY:
        return choose("standard", "neither skewed nor heavy-tailed")
    if outliers <= MANY_OUTLIERS and abs(_shape(core)[0]) <= SKEWED_CORE:
        return choose("robust", "outliers around a symmetric core would set the scale")
    shape = "skewed" if abs(skewness) > SKEWED else "heavy-tailed"
    left = _shape(_power(x))
    if abs(left[0]) <= CURED and left[1] <= 2 * CURED:
        return choose("power", f"{shape}; a power transform leaves a skewness of {abs(left[0]):.2f}")
    return choose(
        "quantile", f"{shape}; a power transform leaves skewness {left[0]:.2f}, kurtosis {left[1]:.2f}"
    )


def _why_unclear(x: np.ndarray[Any, np.dtype[np.float64]], reach: float) -> str | None:
    """The reason why the values cannot show which transform is needed; None where they can."""
    if len(x) < FEWEST:
        return f"{len(x)} values are too few to tell (fewer than {FEWEST})"
    distinct = len(np.unique(x))
    if distinct <= FEW_DISTINCT:
        return f"{count(distinct, 'different value')}: no shape to change"
    if reach == 0:
        share = float((x == np.median(x)).mean())
        return f"{share:.0%} of the values are equal, which no transform spreads; mark them"
    return None


def _shape(x: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Skewness and excess kurtosis; 0 for constants."""
    centred = x - x.mean()
    size = np.abs(centred).max()
    if size <= 1e-12 * np.abs(x).max():
        return 0.0, 0.0
    z = centred / size  # powers of the scaled values neither overflow nor vanish
    variance = np.mean(z**2)
    return float(np.mean(z**3) / variance**1.5), float(np.mean(z**4) / variance**2 - 3)


def _power(x: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The values after a power transform; as they are where that overflows."""
    transformer = _sklearn("preprocessing").PowerTransformer()
    with np.errstate(all="ignore"):
        transformed: np.ndarray[Any, np.dtype[np.float64]] = transformer.fit_transform(x[:, None])[:, 0]
    return transformed if np.isfinite(transformed).all() else x
