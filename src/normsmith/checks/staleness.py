"""Are the running statistics of a model those of its data, and what does it cost if they are not?"""

from __future__ import annotations

from dataclasses import dataclass

from normsmith.anatomy.broken_statistics import broken_statistics
from normsmith.checks.context import Context
from normsmith.checks.moments import LayerMoments
from normsmith.checks.norms import Norm, statistics_tensors
from normsmith.checks.shift import Shift, noise_of, shift

AVERAGED = (
    "means fit and variances are too small, as where those of several models, shards or kinds of batches were averaged "
    "without the variance between them; normsmith.surgery.merge_statistics and average keep it"
)
"""The likely cause where `Shift.lacks_variance`."""


@dataclass(frozen=True, eq=False)
class Staleness:
    """The norms whose running statistics are not those of their inputs, and what they cost together, in words."""

    shifts: dict[Norm, Shift]
    cost: str


def staleness(context: Context) -> Staleness | None:
    """The norms with stale statistics; None where there are none, or where they cost nothing.

    Raises:
        UnavailableError: the batches cannot be run, or are too few.
    """
    shifts = {
        norm: away for norm in context.norms if (away := _shift(context, norm)) is not None and away.counts
    }
    if not shifts:
        return None
    comparison = context.compare({norm.module: context.moments[norm.module].statistics for norm in shifts})
    return None if comparison.cost is None else Staleness(shifts, comparison.cost)


def shift_from(norm: Norm, measured: LayerMoments) -> Shift | None:
    """How far a norm's running statistics are from what was measured; None where it has none.

    Raises:
        UnavailableError: the batches are too few.
    """
    held = statistics_tensors(norm)
    if held is None:
        return None
    noise = noise_of(measured.calls, norm.epsilon)
    own = 0.0 if norm.momentum is None else norm.momentum / (2 - norm.momentum)
    weight = 1 / noise.batches + own
    return shift(held, (measured.mean, measured.within), norm.epsilon, noise, weight)


def _shift(context: Context, norm: Norm) -> Shift | None:
    """How far a norm's running statistics are from its data's; None where there are none to compare."""
    another_rules = norm.is_at_start or norm.is_frozen or broken_statistics(norm.module) is not None
    return (
        None
        if another_rules or not context.calls_of(norm)
        else shift_from(norm, context.moments[norm.module])
    )
