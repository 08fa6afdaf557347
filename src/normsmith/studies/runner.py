"""Trials run in worker processes, and each is reported as it ends, even if its worker is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from loky import ProcessPoolExecutor

from normsmith._text import error_text
from normsmith.errors import StudyError
from normsmith.studies.trial import Outcome, Trial, train
from normsmith.studies.versions import versions
from normsmith.tasks import Task, fingerprint, load
from normsmith.tasks.executed import executed, watch
from normsmith.tasks.fingerprint import covered
from normsmith.tasks.imports import UserFile, imported

WATCH = 1.0
"""Seconds between two checks of a worker whether its parent process still runs."""


@dataclass(frozen=True)
class TaskReference:
    """How a worker process gets the task, by the name that `load` takes or pickled by value; and what computes it."""

    name: str | None
    pickled: bytes | None
    fingerprint: str
    versions: dict[str, str]
    covered: frozenset[Path]

    @classmethod
    def to(cls, task: Task, name: str | None = None) -> TaskReference:
        """Refer to `task`; `name` is what `load` was given, if anything."""
        pickled = None if name is not None else cloudpickle.dumps(task)
        return cls(name, pickled, fingerprint(task), versions(task.device), covered(task))

    def resolve(self) -> Task:
        """The task, in whatever process this runs.

        Raises:
            StudyError: loading it here gives another task: its file draws without a seed, or has changed; or another
                backend or instruction set would compute it.
        """
        task: Task = cloudpickle.loads(self.pickled) if self.pickled is not None else load(str(self.name))
        here = versions(task.device)
        if here != self.versions:
            names = [name for name in here if here[name] != self.versions[name]]
            raise StudyError(
                f"expected worker processes to compute with {_values(self.versions, names)}, got "
                f"{_values(here, names)}: set what chooses these before Python starts"
            )
        if self.name is not None and fingerprint(task) != self.fingerprint:
            raise StudyError(
                f"the task {self.name} is another in a worker process: expected fingerprint "
                f"{self.fingerprint[:12]}; either its file draws data or anything else at random without a seed "
                "(give torch.manual_seed or a generator a fixed one), or it changed while the study was running "
                "(finished trials are stored, start the study again)"
            )
        return task


def _values(versions: dict[str, str], names: list[str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in names)


class _Worker:
    """What a worker process keeps between its trials."""

    reference: TaskReference
    task: Task | None = None


def _enter_worker(reference: TaskReference, parent: int) -> None:
    """Set up a worker: one torch thread, Ctrl-C left to the parent, and an end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    watch()
    _Worker.reference = reference


def _end_with(parent: int) -> None:
    """End this process when `parent` has: one that was killed cannot tell its workers."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)


def _run(trial: Trial) -> Outcome:
    """Run a trial in a worker process."""
    if _Worker.task is None:
        _Worker.task = _Worker.reference.resolve()
    outcome = _outcome(_Worker.task, trial)
    return replace(outcome, uncovered=_uncovered(_Worker.reference, trial))


def _uncovered(reference: TaskReference, trial: Trial) -> tuple[str, ...]:
    """The user's files that this process has run and the trial's key does not cover.

    Edits and probes are covered by their names, for which who writes them is answerable.
    """
    functions = (*(edit.function for edit in trial.arm.edits), *trial.arm.probes)
    own = [file for function in functions if (file := UserFile.of(sys.modules[function.__module__]))]
    known = reference.covered | {file.path for file in own} | imported(own).keys()
    return tuple(sorted(str(path) for path in executed() - known))


def _outcome(task: Task, trial: Trial) -> Outcome:
    """Train; an exception of the user's code is the trial's result."""
    started = time.perf_counter()
    try:
        return train(task, trial)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any failure of the user's code is this trial's result
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{error_text(error)} ({Path(where.filename).name}:{where.lineno})"
        return Outcome("raised", reason, seconds=time.perf_counter() - started)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body with one torch thread, as workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seconds_per_step(task: Task, trials: Iterable[Trial], steps: int = 12) -> float:
    """The mean time of a training step with its evaluations, measured now on a few of `trials`.

    A trial that fails says nothing about time and is passed over; 0.0 if all do.
    """
    measured = []
    with one_thread():
        for trial in trials:
            try:
                train(task, replace(trial, steps=1))  # the first step of all may compile kernels
                started = time.perf_counter()
                outcome = train(task, replace(trial, steps=steps))
            except (Exception, SystemExit):  # noqa: BLE001 - the trial itself will report it
                continue
            if outcome.status == "finished":
                measured.append((time.perf_counter() - started) / steps)
    return sum(measured) / len(measured) if measured else 0.0


class Runner:
    """A pool of worker processes that survives the death of its workers.

    A worker that is killed (out of memory, a crash in native code) takes down the pool: a new one is made, the
    trials that were under way are tried once more, one at a time, and one that kills its worker again is
    reported as *killed*. A trial that outlasts `timeout` seconds is reported as *timeout*.
    """

    def __init__(self, reference: TaskReference, jobs: int, timeout: float) -> None:
        self._reference, self._jobs, self._timeout = reference, jobs, timeout
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_pool()

    def run(self, trials: Iterable[Trial], report: Callable[[Trial, Outcome], None]) -> None:
        """Run every trial once and call `report` in this process as each ends."""
        waiting, suspects = deque(trials), deque[Trial]()
        while waiting or suspects:
            if waiting:
                suspects.extend(self._drain(waiting, self._jobs, report))
            else:
                trial = suspects.popleft()
                if self._drain(deque([trial]), 1, report):
                    report(trial, Outcome("killed", "its worker process was killed, twice (out of memory?)"))

    def _drain(
        self, waiting: deque[Trial], width: int, report: Callable[[Trial, Outcome], None]
    ) -> list[Trial]:
        """Run from `waiting` until it is empty or the pool breaks; returns what was under way when it broke."""
        running: dict[Future[Outcome], tuple[Trial, float]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    running[self._submit(waiting[0])] = (waiting[0], time.monotonic())
                    waiting.popleft()
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    outcome = future.result()
                    report(running.pop(future)[0], outcome)
                self._stop_overdue(running, waiting, report)
        except BrokenExecutor:
            self._drop_pool()
        return [trial for trial, _ in running.values()]

    def _stop_overdue(
        self,
        running: dict[Future[Outcome], tuple[Trial, float]],
        waiting: deque[Trial],
        report: Callable[[Trial, Outcome], None],
    ) -> None:
        """Report trials past their time limit; a new pool is made, and trials that ran beside them are queued again."""
        now = time.monotonic()
        if all(now - started < self._timeout for _, started in running.values()):
            return
        self._drop_pool()
        for trial, started in running.values():
            if now - started >= self._timeout:
                report(
                    trial,
                    Outcome("timeout", f"not finished after {self._timeout:g} s", seconds=now - started),
                )
            else:
                waiting.appendleft(trial)
        running.clear()

    def _submit(self, trial: Trial) -> Future[Outcome]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self._jobs,
                initializer=_enter_worker,
                initargs=(self._reference, os.getpid()),
                env={"OMP_NUM_THREADS": "1"},
            )
        future: Future[Outcome] = self._pool.submit(_run, trial)
        return future

    def _drop_pool(self) -> None:
        if self._pool is not None:
            pool: Any = self._pool
            self._pool = None
            pool.shutdown(wait=True, kill_workers=True)
