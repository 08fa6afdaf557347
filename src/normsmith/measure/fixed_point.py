"""The statistics that layers keep once they normalise by them: a fixed point of "normalise, then measure"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from normsmith.measure.layers import MeasuredLayer
from normsmith.measure.statistics import Statistics

EXACT = 1e-4
"""The gap, in standard deviations or variances, up to which statistics are called exact."""

_WORSE = 4.0
"""How many times as large as the smallest gap so far a gap may be before a step counts as a failure."""


def largest(gaps: Sequence[float | None]) -> float:
    """The largest of some gaps, infinite where one is not a number; 0 where there is none.

    >>> largest([0.5, None, 2.0]), largest([0.5, float("nan")]), largest([None])
    (2.0, inf, 0.0)
    """
    known = [gap for gap in gaps if gap is not None]
    return max((gap if math.isfinite(gap) else math.inf for gap in known), default=0.0)


class FixedPointSearch:
    """Proposes statistics for the next pass, from those of the passes before and what was measured with them.

    Plain passes take what the last one measured. Where no layer is called twice in a forward, nothing else is needed:
    a layer's input depends on the layers before it alone, so that at least one more layer settles in every pass. Where
    a layer feeds itself (one norm called several times), plain passes may swing for ever. As soon as no further layer
    settles, Anderson's mixing takes over for the layers between the first and the last call of a repeated one: of all
    proposals so far it takes the combination of which the same combination of measurements is nearest. A proposal
    that turns out much worse than the best is taken back, and half as long a step is made from the best.

    Args:
        layers: the layers whose statistics are searched.
        calls: the numbers of the layers in the order in which a forward called them.

    Source: Walker and Ni (2011), "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49(4).
    """

    def __init__(self, layers: Sequence[MeasuredLayer], calls: Sequence[int]) -> None:
        self._layers = layers
        self._order = list(dict.fromkeys(calls))
        self._in_cycle = _between_repeated(calls)
        self._settled = -1
        self._mixing = False
        self._scales: dict[int, Tensor] = {}
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._best: tuple[float, Tensor, Tensor] | None = None
        self._damping = 1.0

    def next(
        self, tried: Sequence[Statistics], measured: Sequence[Statistics], gaps: Sequence[float | None]
    ) -> list[Statistics]:
        """What to normalise by in the next pass.

        Args:
            tried: what the layers normalised by in the last pass.
            measured: the statistics of their inputs meanwhile.
            gaps: how far the two are apart, None where nothing reached a layer.
        """
        result = list(measured)
        cycle = [number for number in self._in_cycle if gaps[number] is not None]
        if not cycle:
            return result
        self._mixing = not self._settles(gaps) or self._mixing
        gap = largest([gaps[number] for number in cycle])
        if self._mixing and gap <= EXACT:  # done: only the layers after them still follow
            for number in cycle:
                result[number] = tried[number]
            return result
        x, fx = self._vector(cycle, tried), self._vector(cycle, measured)
        if self._settled < self._order.index(cycle[0]):  # what reaches the cycle still changes
            return result
        mixed = self._mixed(x, fx - x, gap)
        return result if mixed is None else self._with(result, cycle, mixed)

    def _settles(self, gaps: Sequence[float | None]) -> bool:
        """Whether more layers than ever before have settled, counted from the first one called."""
        moving = (n for n, i in enumerate(self._order) if not ((gap := gaps[i]) is None or gap <= EXACT))
        before, self._settled = self._settled, next(moving, len(self._order))
        return self._settled > before

    def _mixed(self, x: Tensor, residual: Tensor, gap: float) -> Tensor | None:
        """The next proposal, or None for what was measured; remembers this one."""
        failed = self._best is not None and not gap < _WORSE * self._best[0]
        if residual.isfinite().all() and not (failed and self._mixing):
            self._steps.append((x, residual))
            if self._best is None or gap < self._best[0]:
                self._best = (gap, x, residual)
        if not self._mixing or self._best is None:
            return None
        if failed:
            self._damping /= 2
            _, x, residual = self._best
            return x + self._damping * residual
        self._damping = min(1.0, 2 * self._damping)
        return x + self._damping * residual - self._correction(residual)

    def _correction(self, residual: Tensor) -> Tensor:
        """What Anderson's combination of the steps so far takes from the step along the residual."""
        if len(self._steps) < 2:
            return torch.zeros_like(residual)
        moved = torch.stack([b - a for (a, _), (b, _) in pairwise(self._steps)], 1)
        changed = torch.stack([b - a for (_, a), (_, b) in pairwise(self._steps)], 1)
        # steps that are nearly combinations of others have small singular values, which would blow up noise
        shares: Tensor = torch.linalg.lstsq(
            changed, residual.unsqueeze(1), rcond=1e-8, driver="gelsd"
        ).solution
        return ((moved + self._damping * changed) @ shares).squeeze(1)

    def _vector(self, cycle: Sequence[int], statistics: Sequence[Statistics]) -> Tensor:
        """Statistics as one vector: means in standard deviations, and logarithms, which keep variances positive."""
        parts = []
        for number in cycle:
            mean, var, std = statistics[number]
            spread = _positive(var.cpu().double() + self._layers[number].epsilon)
            scale = self._scales.setdefault(number, spread.sqrt())
            parts += [mean.cpu().double() / scale, spread.log()]
            parts += [] if std is None else [_positive(std.cpu().double()).log()]
        return torch.cat(parts)

    def _with(self, statistics: list[Statistics], cycle: Sequence[int], vector: Tensor) -> list[Statistics]:
        """The statistics, those of the layers in the cycle taken from a vector."""
        for number in cycle:
            channels = len(self._scales[number])
            mean, spread, vector = vector[:channels], vector[channels : 2 * channels], vector[2 * channels :]
            std = None
            if statistics[number].std is not None:
                std, vector = vector[:channels].exp(), vector[channels:]
            var = (spread.exp() - self._layers[number].epsilon).clamp(min=0)
            statistics[number] = Statistics(mean * self._scales[number], var, std)
        return statistics


def _between_repeated(calls: Sequence[int]) -> list[int]:
    """The layers that are called between the first and the last call of a layer that is called again.

    >>> _between_repeated([0, 1, 2, 1, 3])
    [1, 2]
    """
    last = {number: position for position, number in enumerate(calls)}
    within: dict[int, None] = {}
    until = -1
    for position, number in enumerate(calls):
        until = max(until, last[number])
        if until > position or number in within:
            within[number] = None
    return list(within)


def _positive(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo(torch.float64).tiny)
