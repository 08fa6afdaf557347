"""How a running study speaks: a bar with the time left on a terminal, plain lines elsewhere. Standard error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from normsmith._text import count, rough_duration
from normsmith.studies.rehearsal import Need
from normsmith.studies.trial import Outcome, Trial

LINES = 10
"""How many plain lines a study gets, about."""

NEWS = 0.1
"""The part of a plan by which it must change to be said again."""


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
        self._said: int | None = None  # how many trials a plan had when it was last said

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def needs(self, seeds: int, needs: Sequence[Need]) -> None:
        """How many of the study's seeds decide a hypothesis of each question; said before a trial runs."""
        for pairs, group in groupby(
            sorted(needs, key=lambda need: need.pairs or 0), key=lambda need: need.pairs
        ):
            alike = list(group)
            names = ", ".join(need.question for need in alike)
            if pairs is None:
                enough = max(need.seeds for need in alike)
                self._say(
                    f"warning: {count(seeds, 'seed')} cannot decide a hypothesis of {names}, however clear its effect: "
                    f"at least {enough} can (--seeds {enough})"
                )
            else:
                self._say(
                    f"{pairs} of {count(seeds, 'seed')} on one side of its margin decide a hypothesis of {names}"
                )

    def planned(self, new: int, reused: int, seconds: float) -> None:
        """The whole study is now expected to run `new` trials, and to take so many more seconds."""
        if new < self._done:  # another round of trials, such as those that are run again on another backend
            self._said, self._done = None, 0
        about = f", about {rough_duration(seconds)} on {count(self._jobs, 'worker process')}" if new else ""
        if self._said is None:
            kept = f", {reused:,} more found in the store" if reused else ""
            self._say(f"{count(new, 'trial')} to run{kept}{about}")
            self._said = new
        elif abs(new - self._said) > NEWS * self._said:
            self._say(f"now {count(new, 'trial')} in all, {new - self._done:,} of them to run{about}")
            self._said = new
        self._new = new
        if self._row is None and new:
            self._row = self._bar.add_task("trials", total=new)
        elif self._row is not None:
            self._bar.update(self._row, total=new, completed=self._done)

    def scheduled(self, parts: Sequence[tuple[str, int, float]], budget: float) -> None:
        """What a study with a budget in seconds is about to do, and whether the time will be enough."""
        whole = sum(seconds for _, _, seconds in parts)
        self._say(
            f"the whole takes about {rough_duration(whole)} on {count(self._jobs, 'worker process')}, the budget is "
            f"{rough_duration(budget)}; what decides most in the least time comes first:"
        )
        for seeds, alike in groupby(parts, key=lambda part: part[1]):
            named = ", ".join(f"{question} ({rough_duration(seconds)})" for question, _, seconds in alike)
            self._say(f"  at {seeds} seeds: {named}")

    def begun(self, question: str, seeds: int, seconds: float) -> None:
        """A study with a budget begins to bring a question to a number of seeds."""
        self._say(f"{question}: {seeds} seeds, with {rough_duration(seconds)} left")

    def _say(self, words: str) -> None:
        whole = not self._console.is_terminal  # lines of a log are not folded
        self._console.print(words, highlight=False, markup=False, soft_wrap=whole)

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has ended and is stored."""
        self._done += 1
        if outcome.status not in ("finished", "diverged"):
            what = f"{trial.arm.name}, rate {trial.learning_rate:g}, seed {trial.seed}"
            self._console.print(f"{what} {outcome.status}: {outcome.reason}", highlight=False, markup=False)
        if self._row is not None:
            self._bar.advance(self._row)
        self._new = max(self._new, self._done)
        passed = self._done * LINES // self._new > (self._done - 1) * LINES // self._new
        if passed and not self._console.is_terminal:
            self._say(f"{self._done:,} of {self._new:,} trials")

    def waiting(self, trials: int) -> None:
        """There is nothing to do but wait for so many trials, which another study on the same store runs."""
        self._say(f"waiting for {count(trials, 'trial')} that another study on this store runs")
