"""What an executor is: it knows where trials can run, and opens workers there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias, runtime_checkable

from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.trial import Outcome, Trial

Report: TypeAlias = Callable[[Trial, Outcome], None]
"""What is told of each trial that has ended, in the process of the study."""


def nothing() -> None:
    """Do nothing: the tick of who has nothing to do meanwhile."""


@runtime_checkable
class Workers(Protocol):
    """Workers that run trials; a context manager, at whose end none of them runs any more."""

    def __enter__(self) -> Workers:
        """The workers, which need not have started."""

    def __exit__(self, *_: object) -> None:
        """Stop all of them."""

    def start(self) -> None:
        """Have the workers start, which takes seconds in which the study can do something else."""

    def run(self, trials: Iterable[Trial | None], report: Report, tick: Callable[[], None] = nothing) -> None:
        """Run every trial once and call `report` as each ends, whatever becomes of its worker.

        `trials` may be endless for a while: it is asked for the next one when a worker is free, and None means that
        there is none now. `tick` is called about twice a second.

        Raises:
            StudyError: the task cannot be loaded in a worker, or is another there, or there are no workers any more.
        """


@runtime_checkable
class Executor(Protocol):
    """Where the trials of a study run. It changes how long they take, and none of their numbers."""

    def width(self, device: str) -> int:
        """How many trials run at once where nobody says, of a task on that device.

        Raises:
            StudyError: there is nothing there that could run one.
        """

    def open(self, reference: TaskReference, jobs: int, timeout: float) -> Workers:
        """At most so many workers for a task, each of whose trials may train for so many seconds.

        Raises:
            StudyError: there is nothing there that could run one.
        """
