"""How a running study speaks: a bar with the time left on a terminal, plain lines elsewhere. Standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from normsmith._text import count, rough_duration
from normsmith.studies.trial import Outcome, Trial

LINES = 10
"""How many plain lines a batch of trials gets."""


class StudyProgress:
    """Says how many trials are planned, how long they will take, and how far they are."""

    def __init__(self, console: Console, jobs: int) -> None:
        self._console, self._jobs = console, jobs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._row: TaskID | None = None
        self._new = self._done = 0

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def planned(self, new: int, reused: int, seconds: float) -> None:
        """A batch of trials is about to run; `seconds` is the measured estimate for it."""
        self._new, self._done = new, 0
        kept = f", {reused} more found in the store" if reused else ""
        about = f", about {rough_duration(seconds)} on {count(self._jobs, 'worker process')}" if new else ""
        self._console.print(f"{count(new, 'trial')} to run{kept}{about}", highlight=False)
        if self._row is not None:
            self._bar.remove_task(self._row)
        self._row = self._bar.add_task("trials", total=new) if new else None

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has ended and is stored."""
        self._done += 1
        if outcome.status not in ("finished", "diverged"):
            what = f"{trial.arm.name}, rate {trial.learning_rate:g}, seed {trial.seed}"
            self._console.print(f"{what} {outcome.status}: {outcome.reason}", highlight=False, markup=False)
        if self._row is not None:
            self._bar.advance(self._row)
        passed = self._done * LINES // self._new > (self._done - 1) * LINES // self._new
        if passed and not self._console.is_terminal:
            self._console.print(f"{self._done} of {self._new} trials", highlight=False)

    def waiting(self, trials: int) -> None:
        """There is nothing to do but wait for so many trials, which another study on the same store runs."""
        self._console.print(
            f"waiting for {count(trials, 'trial')} that another study on this store runs", highlight=False
        )
