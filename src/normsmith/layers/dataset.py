"""Exact moments of a whole data set, batch by batch, however it is cut into batches."""

from __future__ import annotations

import torch
from torch import Tensor

from normsmith._text import some
from normsmith.errors import InputError
from normsmith.ops import Moments, concatenate, merge, moments
from normsmith.ops.masks import valid_elements


class DatasetMoments:
    """Mean and variance of every feature over all batches added, in float64; exactly 0 for one that never varies."""

    def __init__(self, features: int) -> None:
        self.batches = 0
        self._moments: Moments | None = None
        self._low = torch.full((features,), torch.inf, dtype=torch.float64)
        self._high = -self._low

    def add(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch of shape (batch, features, *space).

        Raises:
            InputError: it holds NaN or infinite values where valid, or complex ones, or the mask does not fit.
        """
        if x.is_complex():
            raise InputError(f"expected real values, got {x.dtype}")
        valid = valid_elements(mask, x)
        x = x.detach().to(device="cpu", dtype=torch.float64)
        if valid is not None:
            valid = valid.cpu().expand(x.shape[0], 1, *x.shape[2:])
            if not valid.any():
                return
        elif x.numel() == 0:
            return
        _refuse_nonfinite(x, valid)
        low, high = (x, x) if valid is None else (x.where(valid, torch.inf), x.where(valid, -torch.inf))
        others = [0, *range(2, x.ndim)]
        self._low = torch.minimum(self._low, low.amin(others))
        self._high = torch.maximum(self._high, high.amax(others))
        new = moments(x) if valid is None else moments(x.where(valid, 0.0), valid.double())
        self._moments = new if self._moments is None else merge(concatenate([self._moments, new]))
        self.batches += 1

    @property
    def mean(self) -> Tensor:
        """The mean of every feature, shape (features,)."""
        return (self._known_moments.mean + self._known_moments.low)[0]

    @property
    def variance(self) -> Tensor:
        """The biased variance of every feature, shape (features,); exactly 0 where all values are the same."""
        return torch.where(self._low == self._high, 0.0, self._known_moments.variance[0])

    def checked(self) -> DatasetMoments:
        """Return itself, once it holds a batch with values.

        Raises:
            InputError: no batch with values was added.
        """
        if self._moments is None:
            raise InputError("expected at least one batch with values, got none; an iterator can be used up")
        return self

    @property
    def _known_moments(self) -> Moments:
        assert self._moments is not None
        return self._moments


def _refuse_nonfinite(x: Tensor, valid: Tensor | None) -> None:
    """Raise InputError, with the features, where a valid element is NaN or infinite."""
    wrong = ~x.isfinite() if valid is None else ~x.isfinite() & valid
    if not wrong.any():
        return
    counts = wrong.sum([0, *range(2, x.ndim)])
    features = counts.nonzero().flatten().tolist()
    named = some([f"{feature} ({int(counts[feature])} times)" for feature in features], most=5)
    raise InputError(
        f"expected finite values, got NaN or infinite ones in feature {named}; clean or impute them, or leave them out "
        "with mask=..."
    )
