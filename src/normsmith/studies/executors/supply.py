"""The supply of trials that an executor hands out to its workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from normsmith.studies.trial import Trial


class Supply:
    """Trials to hand out: those that have to run again first."""

    def __init__(self, trials: Iterable[Trial | None]) -> None:
        self._trials, self._again = iter(trials), deque[Trial]()
        self.more = True

    def next(self) -> Trial | None:
        """A trial; None where there is none, now (`more`) or at all."""
        if self._again:
            return self._again.popleft()
        if self.more:
            try:
                return next(self._trials)
            except StopIteration:
                self.more = False
        return None

    @property
    def is_empty(self) -> bool:
        """Whether there is none to hand out, and none will come."""
        return not self.more and not self._again

    def again(self, trial: Trial) -> None:
        """Hand out this trial once more."""
        self._again.appendleft(trial)
