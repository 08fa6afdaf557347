"""Workers on a Ray cluster, which survive the loss of nodes: a trial whose node is lost is begun again on another."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import cloudpickle

from normsmith._text import count, error_text
from normsmith.errors import NormsmithError, StudyError
from normsmith.studies.executors import _worker
from normsmith.studies.executors.executor import Report, nothing
from normsmith.studies.executors.local import POLL, START_UP, LocalWorkers
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.executors.supply import Supply
from normsmith.studies.trial import Outcome, Trial
from normsmith.studies.versions import chosen_by_environment

LOST_SECONDS = 60.0
"""How long a study waits for a node when no node is left on which a trial fits."""

CLOSE_SECONDS = 10.0
"""How long workers may take to end in good order, at the end of a study."""


class RemoteWorker:
    """What runs on a node as a Ray actor: it has a worker process of its own there, to which it gives trials.

    What becomes of that process is dealt with here as on any machine; the study hears of it as the trial's outcome.
    """

    def __init__(
        self, reference: bytes, timeout: float, environment: Mapping[str, str], path: Sequence[str]
    ) -> None:
        os.environ.update(environment)
        sys.path.extend(
            folder for folder in path if folder not in sys.path
        )  # the user's modules may be there
        self._reference, self._timeout = reference, timeout

    def begin(self) -> None:
        """Have the worker process start; an answer says that there was room for this worker.

        Raises:
            StudyError: the node lacks what a worker process needs.
        """
        self._workers = LocalWorkers(cloudpickle.loads(self._reference), 1, self._timeout)
        self._workers.start()

    def run(self, pickled: bytes) -> Outcome:
        """Run a trial, and return its outcome."""
        try:
            trial: Trial = cloudpickle.loads(pickled)
        except BaseException as error:  # noqa: BLE001 - it names functions that are not found here
            return Outcome("raised", _worker.reason_of(error))
        outcomes: list[Outcome] = []
        self._workers.run([trial], lambda _, outcome: outcomes.append(outcome))
        return outcomes[0]

    def close(self) -> None:
        """End the worker process, and remove what it needed."""
        self._workers.__exit__()


class RayWorkers:
    """Actors on a Ray cluster, of which each has one trial in hand at most.

    An actor that is lost, with its node or alone, is replaced as soon as there is room, and its trial is begun again; a
    trial that is lost more than `retries` times is reported as *killed*.

    Args:
        ray: the library, connected.
        options: what an actor takes of the cluster.
        reference, jobs, timeout: the task; how many actors; how many seconds a trial may train.
        retries: how often a lost trial is begun again.
        fits_no_more: why the cluster has no room for any actor, now; nothing if it has.
        check_head: raises StudyError where the head of the cluster is lost.
    """

    def __init__(
        self,
        ray: Any,
        options: Mapping[str, Any],
        reference: TaskReference,
        jobs: int,
        timeout: float,
        retries: int,
        fits_no_more: Callable[[], str],
        check_head: Callable[[], None] = nothing,
    ) -> None:
        self._ray, self._jobs, self._retries, self._fits_no_more = ray, jobs, retries, fits_no_more
        self._check_head = check_head
        self._actor = ray.remote(RemoteWorker).options(**options)
        self._arguments = cloudpickle.dumps(reference), timeout, chosen_by_environment(), [*sys.path]
        self._starting: dict[Any, Any] = {}  # actors that have not answered yet, by their answers to come
        self._idle: deque[Any] = deque()
        self._running: dict[Any, tuple[Trial, Any]] = {}  # trials and their actors, by the outcomes to come
        self._lost: Counter[Trial] = Counter()

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        closed = [actor.close.remote() for actor in self._idle]
        if closed:
            with suppress(Exception):  # nothing depends on it
                self._ray.wait(closed, num_returns=len(closed), timeout=CLOSE_SECONDS)
        actors = [*self._starting.values(), *self._idle, *(actor for _, actor in self._running.values())]
        for actor in actors:
            self._kill(actor)
        self._forget()

    def _forget(self) -> None:
        """Have no actors any more."""
        self._starting, self._running = {}, {}
        self._idle.clear()

    def start(self) -> None:
        """Have as many actors start as are missing."""
        for _ in range(self._jobs - len(self._starting) - len(self._idle) - len(self._running)):
            actor = self._actor.remote(*self._arguments)
            self._starting[actor.begin.remote()] = actor

    def run(self, trials: Iterable[Trial | None], report: Report, tick: Callable[[], None] = nothing) -> None:
        """Run every trial once and call `report` in this process as each ends.

        Raises:
            StudyError: the task cannot be had on a node, the cluster has no room for a worker any more, or its head is
                lost.
        """
        supply, worked = Supply(trials), time.monotonic()
        while True:
            self._look_at_head()
            self.start()
            while self._idle and (trial := supply.next()) is not None:
                actor = self._idle.popleft()
                self._running[actor.run.remote(cloudpickle.dumps(trial))] = trial, actor
            if not self._running and supply.is_empty:
                return
            for ref in self._ended():
                if ref in self._running:
                    self._end(ref, supply, report)
                else:
                    self._begun(ref)
            if self._idle or self._running:
                worked = time.monotonic()
            else:
                self._check_room(time.monotonic() - worked)
            tick()

    def _look_at_head(self) -> None:
        """Without its head a cluster cannot be told to end actors: they are forgotten, and end with it."""
        try:
            self._check_head()
        except StudyError:
            self._forget()
            raise

    def _ended(self) -> list[Any]:
        """What has an answer now, after a short time in which there may come one."""
        waiting = [*self._running, *self._starting]
        if not waiting:
            time.sleep(POLL)
            return []
        first, _ = self._ray.wait(waiting, num_returns=1, timeout=POLL)
        if not first:
            return []
        every, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return list(every)

    def _begun(self, ref: Any) -> None:
        """An actor has answered for the first time, or was lost before it could."""
        actor = self._starting.pop(ref)
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._kill(actor)
            if isinstance(cause := getattr(error, "cause", None), NormsmithError):
                raise cause from error
            if isinstance(error, self._ray.exceptions.RayTaskError) or getattr(
                error, "actor_init_failed", False
            ):
                raise StudyError(
                    f"a worker cannot start on a node of the Ray cluster: {error_text(error)}; install the same "
                    "versions of normsmith on every node"
                ) from error
        else:
            self._idle.append(actor)

    def _end(self, ref: Any, supply: Supply, report: Report) -> None:
        """A trial has ended, or its actor was lost: then it is begun again, unless that was too often so."""
        trial, actor = self._running.pop(ref)
        try:
            outcome = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (
                cause
                if isinstance(cause, NormsmithError)
                else StudyError(f"a worker of the Ray cluster failed: {error_text(cause)}")
            ) from error
        except self._ray.exceptions.RayError as error:
            self._kill(actor)  # where it was out of reach only, it must not go on
            self._lost[trial] += 1
            if self._lost[trial] <= self._retries:
                supply.again(trial)
                return
            times = count(self._lost[trial], "time")
            outcome = Outcome(
                "killed", f"its node, or Ray's process on it, was lost, {times}: {error_text(error)}"
            )
        else:
            self._idle.append(actor)
        report(trial, outcome)

    def _check_room(self, seconds: float) -> None:
        """Give up if for so many seconds no worker could start."""
        if seconds >= LOST_SECONDS and (why := self._fits_no_more()):
            raise StudyError(
                f"no worker is left: {why}; finished trials are stored, start the study again then"
            )
        if seconds >= START_UP:
            raise StudyError(
                f"no worker could start for {START_UP:g} s: others take all of the Ray cluster; wait for them or "
                "ask for less for a trial; finished trials are stored, start the study again then"
            )

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # it, or the cluster, is gone
            self._ray.kill(actor, no_restart=True)
