"""The executor of this machine: trials run in worker processes, and each is reported, even if its worker is killed."""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
from loky import ProcessPoolExecutor, cpu_count

from normsmith._files import explained
from normsmith.errors import StudyError
from normsmith.studies.executors import _worker
from normsmith.studies.executors.devices import Assigned, devices_for, visible
from normsmith.studies.executors.executor import Report, nothing
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.executors.supply import Supply
from normsmith.studies.trial import Outcome, Trial

START_UP = 600.0
"""Seconds that a worker may take beside training: to start, to load the task, to compile kernels."""
POLL = 0.5
"""Seconds between two looks at the workers."""
AHEAD = 1
"""How many trials a worker is given beside the one that it runs, so that it need not wait for the next one."""


@dataclass(frozen=True)
class LocalExecutor:
    """Worker processes of this machine, one a core, or where the task is on "cuda" one a GPU.

    Args:
        devices: the GPUs to use, such as ("cuda:0", "cuda:1"); by default all that are there.

    >>> LocalExecutor().width("cpu") >= 1
    True
    """

    devices: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"this machine, {', '.join(self.devices)}" if self.devices else "this machine"

    def width(self, device: str) -> int:
        """How many trials run at once where nobody says: as many as there are cores, or GPUs for a task on them."""
        return len(devices_for(device, self.devices)) or int(cpu_count())

    def open(self, reference: TaskReference, jobs: int, timeout: float) -> LocalWorkers:
        """A pool of worker processes."""
        return LocalWorkers(reference, jobs, timeout, devices_for(reference.device, self.devices))


@dataclass(eq=False)
class _Attempt:
    """A trial that was given to a worker, the file of its clock, and the seconds of both kinds that it took so far.

    It may still wait for the worker to end another one.
    """

    trial: Trial
    clock: Path
    seen: float
    training: float = 0.0
    other: float = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether a worker has it in hand."""
        return self.clock.exists()

    def check_begun(self) -> None:
        """A worker has ended that had nothing else in hand.

        Raises:
            StudyError: it did so before this trial began: so will others.
        """
        if not self.has_begun:
            raise StudyError(
                "expected worker processes that start and load the task, got two that ended before that; what they "
                "said stands on standard error, or in the logs of Ray; finished trials are stored"
            )

    def look(self, now: float, *, waits: bool) -> None:
        """Count the time since the last look: as training, if the worker says so; not at all while it `waits`."""
        passed, self.seen = now - self.seen, now
        if self.has_begun and self.clock.read_bytes() == _worker.TRAINING:
            self.training += passed
        elif not waits:
            self.other += passed

    def overdue(self, timeout: float) -> str:
        """Why the trial has had its time; nothing if it has not."""
        if self.training >= timeout:
            return f"not finished after {timeout:g} s"
        if self.other >= START_UP:
            return f"its worker process took {START_UP:g} s to start, to load the task and to compile kernels"
        return ""


def _report_ended(running: dict[Future[Outcome], _Attempt], report: Report) -> None:
    """Report the trials that ended before their pool did, and take them out of `running`."""
    ended = [future for future in running if future.done() and not future.cancelled()]
    for future in ended:
        if future.exception() is None:
            report(running.pop(future).trial, future.result())


class LocalWorkers:
    """A pool of worker processes that survives the death of its workers.

    A worker that is killed (out of memory, a crash in native code) takes down the pool: a new one is made, the
    trials that were under way are tried once more, one at a time, and one that kills its worker again is
    reported as *killed*. A trial that trains for longer than `timeout` seconds is reported as *timeout*; the start of
    a worker, loading the task and compiling kernels do not count. Each worker has one of the `devices`, if there are
    any: where there are more workers than devices, they share them.
    """

    def __init__(
        self, reference: TaskReference, jobs: int, timeout: float, devices: Sequence[str] = ()
    ) -> None:
        self._reference, self._jobs, self._timeout = reference, jobs, timeout
        self._pool: ProcessPoolExecutor | None = None
        with explained(_worker.no_workers):
            self._clocks = tempfile.TemporaryDirectory(prefix="normsmith-")
        self._attempts = 0
        told = [visible(device) for device in devices]
        self._places = tuple(told[number % len(told)] for number in range(jobs)) if told else ()

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_pool()
        self._clocks.cleanup()

    def run(
        self,
        trials: Iterable[Trial | None],
        report: Report,
        tick: Callable[[], None] = nothing,
    ) -> None:
        """Run every trial once and call `report` in this process as each ends.

        `trials` may be endless for a while: it is asked for the next one when a worker is free, and None means that
        there is none now. `tick` is called about twice a second.

        Raises:
            StudyError: the task cannot be had in a worker, or workers cannot start.
        """
        supply, suspects = Supply(trials), deque[Trial]()
        while True:
            in_hand = self._drain(supply, self._jobs * (1 + AHEAD), report, tick)
            suspects.extend(attempt.trial for attempt in in_hand)
            if suspects:
                trial = suspects.popleft()
                for attempt in self._drain(Supply([trial]), 1, report, tick):
                    attempt.check_begun()
                    report(trial, Outcome("killed", "its worker process was killed, twice (out of memory?)"))
            elif not supply.more:
                return

    def _drain(
        self,
        supply: Supply,
        width: int,
        report: Report,
        tick: Callable[[], None],
    ) -> list[_Attempt]:
        """Run from `supply` until it is empty or the pool breaks; returns what was under way when it broke.

        `width` is the number of trials that the workers have in hand together.
        """
        running: dict[Future[Outcome], _Attempt] = {}
        try:
            while True:
                while len(running) < width and (trial := supply.next()) is not None:
                    self._submit(trial, running, supply)
                if not running and not supply.more:
                    return []
                done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                if not running:
                    time.sleep(POLL)
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    outcome = future.result()
                    report(running.pop(future).trial, outcome)
                self._stop_overdue(running, supply, report)
                tick()
        except BrokenExecutor:
            self._drop_pool()
            _report_ended(running, report)
        in_hand, waiting = self._divided(running.values())
        for attempt in reversed(waiting):
            supply.again(attempt.trial)
        return in_hand

    def _divided(self, attempts: Iterable[_Attempt]) -> tuple[list[_Attempt], list[_Attempt]]:
        """Those that workers have in hand, and those that wait for one of them; workers take them in their order."""
        begun: list[_Attempt] = []
        waiting: list[_Attempt] = []
        for attempt in attempts:
            (begun if attempt.has_begun else waiting).append(attempt)
        idle = max(0, self._jobs - len(begun))  # what these have in hand has not begun: they load the task
        return begun + waiting[:idle], waiting[idle:]

    def _stop_overdue(
        self,
        running: dict[Future[Outcome], _Attempt],
        supply: Supply,
        report: Report,
    ) -> None:
        """Report trials past their time limit; a new pool is made, and trials that ran beside them are queued again."""
        now = time.monotonic()
        _, waiting = self._divided(running.values())
        for attempt in running.values():
            attempt.look(now, waits=attempt in waiting)
        if not any(attempt.overdue(self._timeout) for attempt in running.values()):
            return
        self._drop_pool()
        _report_ended(running, report)
        for attempt in reversed(running.values()):
            why = attempt.overdue(self._timeout)
            if why:
                report(attempt.trial, Outcome("timeout", why, seconds=attempt.training))
            else:
                supply.again(attempt.trial)
        running.clear()

    def _submit(self, trial: Trial, running: dict[Future[Outcome], _Attempt], supply: Supply) -> None:
        """Give a trial to the pool; it is handed out again if the pool turns out to be broken."""
        self._attempts += 1
        attempt = _Attempt(trial, Path(self._clocks.name, str(self._attempts)), time.monotonic())
        try:
            with explained(_worker.no_workers):
                future = self._open_pool().submit(_worker.run, cloudpickle.dumps(trial), attempt.clock)
            running[future] = attempt
        except BaseException:
            supply.again(trial)
            raise

    def start(self) -> None:
        """Have the workers start, which takes seconds in which this process can do something else."""
        if self._pool is None:
            with explained(_worker.no_workers):
                self._open_pool().submit(os.getpid)

    def _open_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            resolve = self._reference.resolve
            if self._places:
                resolve = Assigned(self._reference, self._places, Path(self._clocks.name)).resolve
            self._pool = ProcessPoolExecutor(
                max_workers=self._jobs,
                initializer=_worker.enter,
                initargs=(resolve, self._reference.covered, os.getpid()),
                env={"OMP_NUM_THREADS": "1"},
            )
        return self._pool

    def _drop_pool(self) -> None:
        if self._pool is not None:
            pool: Any = self._pool
            self._pool = None
            pool.shutdown(wait=True, kill_workers=True)
