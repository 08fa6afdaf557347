"""What is compared: a hypothesis, and two arms measured at the same seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normsmith.errors import StudyError

LARGEST = 1e100
_DIGITS = 12

Array = NDArray[Any]


class Interval(NamedTuple):
    """Two ends, on the scale of an effect; infinite where censoring leaves them open, equal where a value is known."""

    low: float
    high: float


@dataclass(frozen=True)
class Hypothesis:
    """What a question claims of two arms, before it has seen a number.

    Attributes:
        name: short, and read alone, unique within the question.
        text: the claim in words.
        treatment: the arm that the claim is about.
        control: the arm that it is compared with.
        unit: what a value counts, e.g. "steps", "points", "octaves".
        scale: effects are differences in `unit`, or natural logarithms of ratios.
        margin: what the effect must go beyond (superiority) or stay within (equivalence), on the effect's scale.
            Best between the values that an effect can take: one that lies on it counts for neither side.
        better: whether higher or lower values speak for the treatment.
        kind: "superiority" (the treatment is better by the margin) or "equivalence" (the same within it).
        after: the name of a hypothesis of the same question that this one rests on; it is judged only once that
            one holds, and at its level.
        beside: it is shown beside those that are judged, and never judged itself.

    Raises:
        StudyError: the margin is not finite, or not above zero.
    """

    name: str
    text: str
    treatment: str
    control: str
    unit: str
    scale: Literal["difference", "ratio"]
    margin: float
    better: Literal["higher", "lower"]
    kind: Literal["superiority", "equivalence"] = "superiority"
    after: str | None = None
    beside: bool = False

    def __post_init__(self) -> None:
        if not (self.margin > 0 and math.isfinite(self.margin)):
            raise StudyError(
                f"hypothesis {self.name!r}: expected a finite margin above zero, got {self.margin!r}"
            )


@dataclass(frozen=True)
class Pairs:
    """Two arms measured at the same seeds.

    Attributes:
        hypothesis: what is claimed of them.
        seeds: n of them, each once.
        treatment: n values, in the order of the seeds.
        control: n values, in the order of the seeds.
        treatment_censored: n flags: 0 if the value is known, 1 if the true one is this or larger (steps to a target
            that was never reached are given as budget + 1), −1 if it is this or smaller; all known by default.
        control_censored: as `treatment_censored`.
        failed: how many trials of the treatment, and of the control, diverged.
        test_error: the standard error that the median effect has because the test set is a sample; None if unknown.
        decided: why the numbers may not speak, if something else has decided so: the verdict is inconclusive
            with this as its reason.

    Raises:
        StudyError: the lengths differ, a seed comes twice or none is there, a value is not finite, beyond
            1e100, or not positive where ratios are compared.
    """

    hypothesis: Hypothesis
    seeds: tuple[int, ...]
    treatment: tuple[float, ...]
    control: tuple[float, ...]
    treatment_censored: tuple[int, ...] = ()
    control_censored: tuple[int, ...] = ()
    failed: tuple[int, int] = (0, 0)
    test_error: float | None = None
    decided: str | None = None

    def __post_init__(self) -> None:
        where, count = f"hypothesis {self.hypothesis.name!r}", len(self.seeds)
        if count == 0 or len(set(self.seeds)) != count:
            raise StudyError(f"{where}: expected at least one seed and each once, got {self.seeds}")
        for name in ("treatment_censored", "control_censored"):
            object.__setattr__(self, name, getattr(self, name) or (0,) * count)
        for name in ("treatment", "control", "treatment_censored", "control_censored"):
            if len(getattr(self, name)) != count:
                raise StudyError(f"{where}: expected {count} of {name}, got {len(getattr(self, name))}")
        least = 0.0 if self.hypothesis.scale == "ratio" else -LARGEST
        for arm in ("treatment", "control"):
            for seed, value in zip(self.seeds, getattr(self, arm), strict=True):
                if not least < value < LARGEST:
                    raise StudyError(
                        f"{where}, seed {seed}: expected a number above {least:g} and below {LARGEST:g} for the "
                        f"{arm}, got {value!r}; give a trial that diverged the worst value there is"
                    )

    def effects(self) -> Effects:
        """The paired effects, positive in the direction of the claim."""
        treatment, control = np.array(self.treatment), np.array(self.control)
        if self.hypothesis.scale == "ratio":
            # the unit cancels before anything is rounded
            values, decimals = np.log(treatment / control), _DIGITS
        else:
            values, decimals = treatment - control, _decimals(treatment, control)
        of_treatment, of_control = np.array(self.treatment_censored), np.array(self.control_censored)
        more = (of_treatment > 0) | (of_control < 0)
        less = (of_treatment < 0) | (of_control > 0)
        if self.hypothesis.better == "lower":
            values, more, less = -values, less, more
        values = np.round(values, decimals) + 0.0
        return Effects(
            low=np.where(less, -np.inf, values),
            high=np.where(more, np.inf, values),
            margin=round(self.hypothesis.margin, decimals),
            equivalence=self.hypothesis.kind == "equivalence",
        )


@dataclass(frozen=True)
class Effects:
    """n paired effects, each an interval: a point if it is known, open (infinite) on the side that censoring hides."""

    low: Array
    high: Array
    margin: float
    equivalence: bool


def _decimals(treatment: Array, control: Array) -> int:
    """The decimals that are `_DIGITS` digits of the largest value: to these, effects that are equal exactly tie."""
    largest = max(float(np.abs(treatment).max()), float(np.abs(control).max()), 1 / LARGEST)
    return _DIGITS - math.ceil(math.log10(largest))
