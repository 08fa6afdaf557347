"""How a study runs: seeds, profile, workers, limits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from normsmith.errors import StudyError
from normsmith.ops.dispatch import rows_from
from normsmith.studies.executors.executor import Executor
from normsmith.studies.executors.local import POLL, LocalExecutor
from normsmith.studies.lab import Profile
from normsmith.studies.looks import LOOKS

SEEDS: dict[Profile, int] = {"quick": 10, "full": 20}
"""How many seeds a profile takes when the user names no number."""

LONGEST = 366 * 86400.0
"""The longest budget, in seconds."""


@dataclass(frozen=True)
class Settings:
    """How a study runs; seeds, profile and steps decide its numbers, the others do not.

    With a `budget` in seconds the study looks at 10 and at 20 seeds (see `studies.looks`), the cheapest answers first,
    and ends when the time is over. `again_with` names a backend that computes a sample of the trials once more, when
    the study has its answers; `executor` is where trials run, `jobs` at once: `LocalExecutor`, or `RayExecutor` on a
    cluster.
    """

    seeds: int | None = None
    profile: Profile = "quick"
    jobs: int = 1
    timeout: float = 600.0
    steps: int | None = None
    again_with: str | None = None
    executor: Executor = field(default_factory=LocalExecutor)
    budget: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("seeds", self.seeds), ("jobs", self.jobs), ("steps", self.steps)):
            if value is not None and value < 1:
                raise StudyError(f"{name}: expected a whole number of at least 1, got {value}")
        if not self.timeout >= POLL:
            raise StudyError(
                f"timeout: expected at least {POLL:g} seconds, so often are workers looked at, got {self.timeout}"
            )
        if self.budget is not None and not 0 < self.budget <= LONGEST:
            raise StudyError(
                f"budget: expected a time above zero and of a year at most, got {self.budget:g} s; without a budget a "
                "study takes the time that it needs"
            )
        if self.budget is not None and self.seeds is not None:
            raise StudyError(
                f"budget: expected no number of seeds beside it, got {self.seeds}: a study with a budget looks at "
                f"{' and at '.join(str(look.seeds) for look in LOOKS)} seeds, whatever the budget, so that a run that "
                "goes on with a larger one looks no more often"
            )
        if self.again_with is not None:
            rows_from(self.again_with)  # raises where there is no such backend


_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """A time as people write it, in seconds.

    Raises:
        StudyError: it is none, with what was expected.

    >>> [seconds_of(text) for text in ("90s", "30m", "45min", "2h", "1h30m", "1.5 h")]
    [90.0, 1800.0, 2700.0, 7200.0, 5400.0, 5400.0]
    """
    part = r"(\d+(?:\.\d+)?)\s*(sec|s|min|m|h)\s*"
    if not re.fullmatch(rf"\s*(?:{part})+", text, re.IGNORECASE):
        raise StudyError(
            f"budget: expected a time with its unit (s, m or min, h), such as 90s, 30m, 2h or 1h30m, got {text!r}"
        )
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in re.findall(part, text, re.IGNORECASE))
