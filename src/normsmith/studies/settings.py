"""How a study runs: seeds, profile, workers, limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from normsmith.errors import StudyError
from normsmith.ops.dispatch import rows_from
from normsmith.studies.executors.executor import Executor
from normsmith.studies.executors.local import POLL, LocalExecutor
from normsmith.studies.lab import Profile

SEEDS: dict[Profile, int] = {"quick": 10, "full": 20}
"""How many seeds a profile takes when the user names no number."""


@dataclass(frozen=True)
class Settings:
    """How a study runs; seeds, profile and steps decide its numbers, the others do not.

    `again_with` names a backend that computes a sample of the trials once more, when the study has its answers;
    `executor` is where trials run, `jobs` at once: `LocalExecutor`, or `RayExecutor` on a cluster.
    """

    seeds: int | None = None
    profile: Profile = "quick"
    jobs: int = 1
    timeout: float = 600.0
    steps: int | None = None
    again_with: str | None = None
    executor: Executor = field(default_factory=LocalExecutor)

    def __post_init__(self) -> None:
        for name, value in (("seeds", self.seeds), ("jobs", self.jobs), ("steps", self.steps)):
            if value is not None and value < 1:
                raise StudyError(f"{name}: expected a whole number of at least 1, got {value}")
        if not self.timeout >= POLL:
            raise StudyError(
                f"timeout: expected at least {POLL:g} seconds, so often are workers looked at, got {self.timeout}"
            )
        if self.again_with is not None:
            rows_from(self.again_with)  # raises where there is no such backend
