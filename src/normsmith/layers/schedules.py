"""How far batch renormalization may correct, step by step: the bounds r_max and d_max."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from normsmith._choices import did_you_mean
from normsmith.errors import InputError
from normsmith.ops import Renorm
from normsmith.ops.call import eager

Bounds = tuple[Tensor | float, Tensor | float]
Schedule = Callable[[Tensor], Bounds]
"""From the number of training steps so far (int64 scalar tensor) to (r_max, d_max); runs on the device."""

PAPER_STEPS = 130_000
"""The training run over which the paper's schedule was used; `scaled` maps it to another length."""


@dataclass(frozen=True)
class Linear:
    """Bounds that open linearly: r_max from 1 to `r_max`, d_max from 0 to `d_max`, then stay.

    Both begin to open at step `start` and are open at `r_end` and `d_end`. With an end at the start the switch is
    hard. Bounds never leave [1, r_max] and [0, d_max].

    >>> import torch
    >>> Linear(3.0, 5.0, start=100, r_end=300, d_end=200)(torch.tensor(150))
    (1.5, 2.5)
    """

    r_max: float
    d_max: float
    start: float = 0.0
    r_end: float = 0.0
    d_end: float = 0.0

    def __post_init__(self) -> None:
        if not (self.r_max >= 1 and self.d_max >= 0):
            raise InputError(
                f"schedule: expected r_max ≥ 1 and d_max ≥ 0, got {self.r_max!r} and {self.d_max!r}; "
                "r_max=1, d_max=0 is batch norm"
            )
        if not 0 <= self.start <= min(self.r_end, self.d_end):
            raise InputError(
                f"schedule: expected 0 ≤ start ≤ r_end and d_end, got start={self.start!r}, "
                f"r_end={self.r_end!r}, d_end={self.d_end!r}"
            )

    def __call__(self, step: Tensor) -> Bounds:
        """The bounds at a step: plain numbers where the host can tell them, tensors otherwise."""
        if self.r_end == self.d_end == 0:
            return self.r_max, self.d_max
        # on the CPU a number costs nothing to read; elsewhere reading it would make the host wait
        readable = step.device.type == "cpu" and eager()
        beyond = (step.item() if readable else step) - self.start
        r = _fraction(beyond, self.r_end - self.start) * (self.r_max - 1) + 1
        return r, _fraction(beyond, self.d_end - self.start) * self.d_max


def _fraction(beyond: Tensor | float, length: float) -> Tensor | float:
    """How far the bounds are open, from 0 to 1, so many steps after they began to open."""
    if isinstance(beyond, Tensor):
        return (beyond >= 0).float() if length == 0 else (beyond / length).clamp(0.0, 1.0)
    return float(beyond >= 0) if length == 0 else min(max(beyond / length, 0.0), 1.0)


def constant(r_max: float = 3.0, d_max: float = 5.0) -> Linear:
    """The same bounds at every step; `constant(1, 0)` is batch norm.

    >>> import torch
    >>> constant(2.0, 1.0)(torch.tensor(0))
    (2.0, 1.0)
    """
    return Linear(r_max, d_max)


def paper() -> Linear:
    """The paper's schedule: batch norm for 5,000 steps, then r_max → 3 at 40,000 and d_max → 5 at 25,000.

    The steps are those of the paper's ImageNet run: a much shorter run would stay plain batch norm throughout. Use
    `scaled` for other lengths.

    Source: Ioffe (2017), arXiv:1702.03275, section 4.2.

    >>> import torch
    >>> paper()(torch.tensor(4_000))
    (1.0, 0.0)
    """
    return Linear(3.0, 5.0, start=5_000, r_end=40_000, d_end=25_000)


def scaled(total_steps: int) -> Linear:
    """The paper's shape over `total_steps` of training, in proportion to the 130,000 steps of its own run.

    That is: batch norm for the first 4 % of the steps, d_max open at 19 %, r_max at 31 %.

    >>> scaled(130_000) == paper()
    True

    Raises:
        InputError: total_steps is not a positive whole number.
    """
    if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
        raise InputError(f"total_steps: expected a positive whole number, got {total_steps!r}")
    share = total_steps / PAPER_STEPS
    return Linear(3.0, 5.0, start=5_000 * share, r_end=40_000 * share, d_end=25_000 * share)


def crossq() -> Linear:
    """CrossQ's schedule: a hard switch from batch norm to r_max 3, d_max 5 after 100,000 steps.

    CrossQ goes with `momentum=0.01` (torch's convention) and `eps=1e-3`.

    Source: Bhatt et al. (2024), arXiv:1902.05605, and its published code.

    >>> import torch
    >>> crossq()(torch.tensor(100_000))
    (3.0, 5.0)
    """
    return Linear(3.0, 5.0, start=100_000, r_end=100_000, d_end=100_000)


def keras() -> Linear:
    """Keras's default: the correction is never clipped, from the first step on.

    The same results as Keras need `track="std"` too, which layers that are given the name "keras" take by themselves.

    >>> import torch
    >>> keras()(torch.tensor(0))
    (inf, inf)
    """
    return Linear(math.inf, math.inf)


PRESETS: dict[str, Callable[[], Linear]] = {
    "constant": constant,
    "crossq": crossq,
    "keras": keras,
    "paper": paper,
}


def schedule_named(schedule: str | Schedule) -> Schedule:
    """A preset by its name, or the user's own callable.

    Raises:
        InputError: there is no such preset, or it is not callable.

    >>> schedule_named("paper") == paper()
    True
    """
    if isinstance(schedule, str) and schedule in PRESETS:
        return PRESETS[schedule]()
    if isinstance(schedule, str) or not callable(schedule):
        raise InputError(
            f"schedule: expected one of {', '.join(PRESETS)}, or a callable step -> (r_max, d_max); "
            f"got {schedule!r}{did_you_mean(schedule, PRESETS)}"
        )
    return schedule


def bounds_at(schedule: Schedule, step: Tensor) -> Renorm:
    """The bounds at a step, whatever kind of numbers the schedule returns."""
    r_max, d_max = schedule(step)
    return Renorm(r_max, d_max)
