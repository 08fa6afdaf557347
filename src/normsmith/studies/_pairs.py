"""What is compared: a hypothesis, and two arms measured at the same seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from normsmith.errors import StudyError

LARGEST = 1e100
_DIGITS = 12

Array = NDArray[Any]


@dataclass(frozen=True)
class Hypothesis:
    """What a question claims of two arms, before it has seen a number.

    Attributes:
        name: short, unique within the question.
        text: the claim in words.
        treatment: the arm that the claim is about.
        control: the arm that it is compared with.
        unit: what a value counts, e.g. "steps", "points", "octaves".
        scale: effects are differences in `unit`, or natural logarithms of ratios.
        margin: what the effect must reach (superiority) or stay within (equivalence), on the effect's scale.
        better: whether higher or lower values speak for the treatment.
        kind: "superiority" (the treatment is better by the margin) or "equivalence" (the same within it).

    Raises:
        StudyError: the margin is negative, not finite, or zero for an equivalence.
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

    def __post_init__(self) -> None:
        least = "above zero" if self.kind == "equivalence" else "of at least zero"
        good = self.margin > 0 or (self.margin == 0 and self.kind == "superiority")
        if not (good and math.isfinite(self.margin)):
            raise StudyError(
                f"hypothesis {self.name!r}: expected a finite margin {least}, got {self.margin!r}"
            )


@dataclass(frozen=True)
class Pairs:
    """Two arms measured at the same seeds.

    Attributes:
        hypothesis: what is claimed of them.
        seeds: n of them, each once.
        treatment: n values, in the order of the seeds.
        control: n values, in the order of the seeds.
        treatment_censored: n flags: the true value is the given one or larger (steps to a target that was
            never reached are given as budget + 1); none by default.
        control_censored: as `treatment_censored`.
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
    treatment_censored: tuple[bool, ...] = ()
    control_censored: tuple[bool, ...] = ()
    decided: str | None = None

    def __post_init__(self) -> None:
        where, count = f"hypothesis {self.hypothesis.name!r}", len(self.seeds)
        if count == 0 or len(set(self.seeds)) != count:
            raise StudyError(f"{where}: expected at least one seed and each once, got {self.seeds}")
        for name in ("treatment_censored", "control_censored"):
            object.__setattr__(self, name, getattr(self, name) or (False,) * count)
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

    @property
    def mostly_unknown(self) -> bool:
        """Whether most pairs are censored in both arms."""
        both = [a and b for a, b in zip(self.treatment_censored, self.control_censored, strict=True)]
        return 2 * sum(both) > len(both)

    def effects(self) -> Effects:
        """The paired effects, positive in the direction of the claim."""
        treatment, control = np.array(self.treatment), np.array(self.control)
        if self.hypothesis.scale == "ratio":
            values, decimals = (
                np.log(treatment / control),
                _DIGITS,
            )  # the unit cancels before anything is rounded
        else:
            values, decimals = treatment - control, _decimals(treatment, control)
        more, less = np.array(self.treatment_censored), np.array(self.control_censored)
        if self.hypothesis.better == "lower":
            values, more, less = -values, less, more
        unknown = more & less
        return Effects(
            values=np.where(unknown, 0.0, np.round(values, decimals)) + 0.0,
            at_least=more & ~unknown,
            at_most=less & ~unknown,
            unknown=unknown,
            margin=round(self.hypothesis.margin, decimals),
            equivalence=self.hypothesis.kind == "equivalence",
        )


@dataclass(frozen=True)
class Effects:
    """n paired effects, and what is known of each: its value, a bound on either side, or nothing (then zero)."""

    values: Array
    at_least: Array
    at_most: Array
    unknown: Array
    margin: float
    equivalence: bool

    @property
    def censored(self) -> bool:
        """Whether any of them is not known exactly."""
        return bool((self.at_least | self.at_most | self.unknown).any())


def _decimals(treatment: Array, control: Array) -> int:
    """The decimals that are `_DIGITS` digits of the largest value: to these, effects that are equal exactly tie."""
    largest = max(float(np.abs(treatment).max()), float(np.abs(control).max()), 1 / LARGEST)
    return _DIGITS - math.ceil(math.log10(largest))
