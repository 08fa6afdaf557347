"""Count, mean and M2 of every channel: measured over groups of rows, and merged."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from normsmith.ops._shapes import Batch, Elements, PerGroup, PerSample, Spread


class Groups(NamedTuple):
    """How the rows of a batch are cut into ghost batches: `whole` of `size` rows, then one of `last` rows, if any."""

    size: int
    whole: int
    last: int

    @property
    def number(self) -> int:
        """How many groups there are."""
        return self.whole + (self.last > 0)


def ghost_groups(rows: int, values_per_row: int, size: int | None) -> Groups | None:
    """Cut a batch into ghost batches of `size` rows; None where the whole batch is one group.

    A remainder of a single value, which has no variance, joins the group before it.

    >>> ghost_groups(10, 1, 4), ghost_groups(9, 1, 4), ghost_groups(9, 25, 4), ghost_groups(3, 1, 4)
    (Groups(size=4, whole=2, last=2), Groups(size=4, whole=1, last=5), Groups(size=4, whole=2, last=1), None)
    """
    if size is None or rows <= size:
        return None
    whole, last = rows // size, rows % size  # the compiler knows no divmod of a symbolic size
    if last * values_per_row == 1:
        whole, last = whole - 1, size + 1
    return Groups(size, whole, last) if whole else None


def gather(rows: PerSample, groups: Groups | None) -> PerGroup:
    """Sum a (batch, channels) tensor over the rows of each group."""
    if groups is None:
        return rows.sum(0, keepdim=True)
    cut = groups.size * groups.whole
    sums = rows[:cut].view(groups.whole, groups.size, rows.shape[1]).sum(1)
    return torch.cat([sums, rows[cut:].sum(0, keepdim=True)]) if groups.last else sums


def spread(values: PerGroup, like: Batch, groups: Groups | None) -> Spread:
    """Lay a (groups, channels) tensor out so that it broadcasts against the batch."""
    if groups is not None:
        cut = groups.size * groups.whole
        rows = values[: groups.whole].repeat_interleave(groups.size, 0, output_size=cut)
        values = torch.cat([rows, values[groups.whole :].expand(groups.last, -1)]) if groups.last else rows
    return values if like.ndim == 2 else values[(...,) + (None,) * (like.ndim - 2)]


def total(x: Batch, groups: Groups | None) -> PerGroup:
    """Sum over the rows and the positions of each group, in the dtype of `x` (torch sums pairwise)."""
    if x.ndim == 2:
        return gather(x, groups)
    if groups is None:
        return x.sum([0, *range(2, x.ndim)]).unsqueeze(0)
    return gather(x.sum(list(range(2, x.ndim))), groups)


class Moments(NamedTuple):
    """Weighted count W = Σw, mean and M2 = Σw(x − mean)² of each group and channel, and Σw².

    `mean`, `m2` and `low` have the shape (groups, channels); `low` is what rounding took from the mean, so that
    mean + low has twice as many digits. `count` and `squares` are plain numbers where the shape of the batch
    decides them, otherwise tensors of shape (groups, 1), known only at run time.
    """

    count: Tensor | float  # type: ignore[assignment]  # tuples have a method of this name
    mean: PerGroup
    m2: PerGroup
    squares: Tensor | float
    low: PerGroup

    @property
    def variance(self) -> Tensor:
        """The biased variance M2 / W, which normalises."""
        return self.m2 / _safe(self.count)

    @property
    def unbiased_variance(self) -> Tensor:
        """M2 / (W − Σw²/W), which the running statistics keep; M2 / (n − 1) without weights."""
        return self.m2 / _safe(self.count - self.squares / _safe(self.count))

    @property
    def enough(self) -> Tensor | bool:
        """Whether there is a variance: at least two values, or n_eff = W²/Σw² of at least two."""
        if not isinstance(self.count, Tensor):
            if self.count >= 2:  # noqa: SIM103 — a branch: the compiler settles a symbolic batch size
                return True
            return False
        # two equal weights make n_eff = 2 but for rounding
        return (self.count > 0) & (self.count * self.count >= (2 - 1e-6) * self.squares)

    def detach(self) -> Moments:
        """The same moments without their autograd history."""
        return Moments(
            _detached(self.count),
            self.mean.detach(),
            self.m2.detach(),
            _detached(self.squares),
            self.low.detach(),
        )


def _detached(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value


def _safe(count: Tensor | float) -> Tensor | float:
    if isinstance(count, Tensor):
        return torch.where(count > 0, count, 1.0)
    return count if count > 0 else 1.0


def moments(x: Batch, weights: Elements | None = None, groups: Groups | None = None) -> Moments:
    """Measure count, mean and M2 of every channel of a batch (float32 or float64).

        W = Σw    mean = Σwx / W    M2 = Σw(x − mean)²

    The sums are computed in the dtype of `x`, around a first estimate of the mean. What that estimate lacks is kept
    in `low`: of a float32 channel with mean 1e4 and standard deviation 1, both are right to seven digits.

    Args:
        x: shape (batch, channels, *space).
        weights: shape (batch, 1, *space), broadcastable: mask × sample weight. Values of weight 0 must be finite.
        groups: measure each of these groups of rows by itself.

    >>> torch.set_printoptions(precision=4)
    >>> measured = moments(torch.tensor([[1.0], [2.0], [3.0], [6.0]]))
    >>> measured.count, measured.mean.item(), measured.m2.item()
    (4.0, 3.0, 14.0)
    """
    count, squares = counts(x, weights, groups)
    divisor = _safe(count)
    mean = total(x if weights is None else x * weights, groups) / divisor
    centred = x - spread(mean, x, groups)
    weighted = centred if weights is None else centred * weights
    low = total(weighted, groups) / divisor
    m2 = torch.addcmul(total(weighted * centred, groups), low, low * count, value=-1)
    return Moments(count, mean, m2.clamp(min=0), squares, low)


def counts(
    x: Tensor, weights: Tensor | None, groups: Groups | None
) -> tuple[Tensor, Tensor] | tuple[float, float]:
    """Σw and Σw² of each group: numbers where the shape decides them, else tensors of shape (groups, 1)."""
    if weights is not None:
        every = weights.expand(x.shape[0], 1, *x.shape[2:])
        return total(every, groups), total(every * every, groups)
    positions = math.prod(x.shape[2:])
    if groups is None:
        count = 1.0 * x.shape[0] * positions  # float() would hold an exported program to this size
        return count, count
    if not groups.last:
        count = 1.0 * groups.size * positions
        return count, count
    counts = torch.full((groups.number, 1), groups.size * positions, dtype=x.dtype, device=x.device)
    counts[-1] = groups.last * positions
    return counts, counts


def merge(parts: Moments) -> Moments:
    """Merge all groups into one by Chan's formula.

        W = ΣW_g    mean = ΣW_g·mean_g / W    M2 = ΣM2_g + ΣW_g(mean_g − mean)²

    Groups without values change nothing. Source: Chan, Golub, LeVeque (1979), "Updating formulae and a pairwise
    algorithm for computing sample variances".

    >>> x = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    >>> merge(moments(x, groups=Groups(size=3, whole=1, last=1))).m2.item()
    14.0
    """
    count, squares = parts.count, parts.squares
    if isinstance(count, Tensor) and isinstance(squares, Tensor):
        share = count / _safe(count.sum(0, keepdim=True))
        count, squares = count.sum(0, keepdim=True), squares.sum(0, keepdim=True)
    else:
        share = torch.full_like(parts.mean[:, :1], 1 / len(parts.mean))
        count, squares = count * len(parts.mean), squares * len(parts.mean)
    # around the mean of the group with the most values: the others may hold none
    base = parts.mean.gather(0, share.argmax(0, keepdim=True).expand(1, parts.mean.shape[1]))
    shift = (parts.mean - base) + parts.low
    low = (share * shift).sum(0, keepdim=True)
    apart = shift - low
    m2 = parts.m2 + parts.count * apart * apart
    mean = base + low
    return Moments(count, mean, m2.sum(0, keepdim=True), squares, low - (mean - base))


def concatenate(parts: list[Moments]) -> Moments:
    """Put the groups of several moments side by side, e.g. those of micro-batches."""
    like = parts[0].mean

    def stacked(values: list[Tensor | float]) -> Tensor:
        return torch.cat(
            [
                torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(len(part.mean), 1)
                for value, part in zip(values, parts, strict=True)
            ]
        )

    return Moments(
        stacked([part.count for part in parts]),
        torch.cat([part.mean for part in parts]),
        torch.cat([part.m2 for part in parts]),
        stacked([part.squares for part in parts]),
        torch.cat([part.low for part in parts]),
    )
