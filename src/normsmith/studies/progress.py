"""What a study tells of its progress while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from normsmith.studies.rehearsal import Need
from normsmith.studies.trial import Outcome, Trial


@runtime_checkable
class Progress(Protocol):
    """What a study tells of its progress; implement it to show a bar or to log."""

    def needs(self, seeds: int, needs: Sequence[Need]) -> None:
        """How many of the study's seeds decide a hypothesis of each question; said before a trial runs."""

    def planned(self, new: int, reused: int, seconds: float) -> None:
        """The whole study is now expected to run `new` trials, and to take so many more seconds.

        `reused` trials were found in the store so far. Said before the first trial runs, and again as more is known.
        """

    def scheduled(self, parts: Sequence[tuple[str, int, float]], budget: float) -> None:
        """A study with this budget in seconds has these parts: question, number of seeds, seconds from scratch."""

    def begun(self, question: str, seeds: int, seconds: float) -> None:
        """Such a study begins to bring a question to its look at so many seeds, with so many seconds left."""

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has ended and is stored."""

    def waiting(self, trials: int) -> None:
        """There is nothing to do but wait for so many trials, which another study on the same store runs."""


class Silent:
    """Progress that is not shown."""

    def needs(self, seeds: int, needs: Sequence[Need]) -> None:
        """Shows nothing."""

    def planned(self, new: int, reused: int, seconds: float) -> None:
        """Shows nothing."""

    def scheduled(self, parts: Sequence[tuple[str, int, float]], budget: float) -> None:
        """Shows nothing."""

    def begun(self, question: str, seeds: int, seconds: float) -> None:
        """Shows nothing."""

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """Shows nothing."""

    def waiting(self, trials: int) -> None:
        """Shows nothing."""
