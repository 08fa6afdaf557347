"""What trials take: measured on a few of them before any runs, and corrected by those that have run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from normsmith.studies.arms import Arm
from normsmith.studies.initial_weights import initialise, scale_hidden_weights
from normsmith.studies.trial import PROBES, RESAMPLED, Trial, built, evaluation_steps, train
from normsmith.tasks import Task, evaluating, metric
from normsmith.tasks.resample import resampled_metric

STEPS = 12
"""How many training steps are timed; the first of all may compile kernels and is not."""

_WEIGHTS = (initialise, scale_hidden_weights)
"""Edits that cost nothing while training: arms that differ in them alone take the same time."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body with one torch thread, as workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Cost:
    """What the parts of a trial take, in seconds: building it, a step, an evaluation, all probes once, resampling."""

    build: float
    step: float
    evaluation: float
    probes: float
    resampling: float

    def of(self, trial: Trial) -> float:
        """Of one trial."""
        seconds = self.build + self.step * trial.steps
        evaluations = len(evaluation_steps(trial.steps)) if trial.detail == "curve" else 1
        seconds += self.evaluation * (1 + evaluations)
        if trial.detail != "metric":
            probed = min(PROBES, evaluations)
            seconds += self.resampling + self.probes * probed
        return seconds


def measured(task: Task, trial: Trial) -> Cost:
    """The parts of a trial, timed here and now on one thread."""
    arms_task = trial.arm.task(task)
    short = replace(trial, steps=1, detail="metric")
    with one_thread():
        train(task, short)
        whole_one = _seconds(lambda: train(task, short))
        whole_many = _seconds(lambda: train(task, replace(short, steps=1 + STEPS)))
        building = _seconds(lambda: built(arms_task, trial.arm, trial.seed, trial.stream))
        model = built(arms_task, trial.arm, trial.seed, trial.stream)
        step = max(0.0, whole_many - whole_one) / STEPS
        evaluation = max(0.0, whole_one - building - step) / 2
        if trial.detail == "metric":
            return Cost(building, step, evaluation, 0.0, 0.0)
        with evaluating(model):
            metric(arms_task, model, "test")
            resampling = _seconds(lambda: resampled_metric(arms_task, model, "test", RESAMPLED))
            for probe in trial.arm.probes:
                probe(model, arms_task)
            probes = _seconds(lambda: [probe(model, arms_task) for probe in trial.arm.probes])
    return Cost(building, step, evaluation, probes, resampling)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def kind(trial: Trial) -> Arm:
    """Trials of one kind take the same time a step: their arm, whatever its initial weights."""
    return replace(trial.arm, edits=tuple(edit for edit in trial.arm.edits if edit.function not in _WEIGHTS))


class Costs:
    """What trials of a study take, in seconds of a worker."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._kinds: dict[Arm, Cost] = {}
        self._tried: set[Arm] = set()
        self._estimated = self._took = 0.0

    def measure(self, trials: Iterable[Trial], kinds: int, until: float) -> None:
        """Measure a trial of each of so many kinds, those that have the most steps to run first.

        Nothing more is measured after `until`, on the clock of `time.monotonic`. A trial that fails says nothing about
        time.
        """
        steps: dict[Arm, int] = {}
        longest: dict[Arm, Trial] = {}
        for trial in trials:
            arm = kind(trial)
            steps[arm] = steps.get(arm, 0) + trial.steps
            longest[arm] = max(trial, longest.get(arm, trial), key=lambda one: one.detail != "metric")
        for arm in sorted(steps, key=lambda arm: -steps[arm])[:kinds]:
            if arm in self._tried or (self._kinds and time.monotonic() > until):
                continue
            self._tried.add(arm)
            try:
                self._kinds[arm] = measured(self._task, longest[arm])
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001 - the trial itself will report it
                continue

    @property
    def are_known(self) -> bool:
        """Whether a trial was measured, or was to be."""
        return bool(self._tried)

    def seconds(self, trials: Iterable[Trial]) -> float:
        """What these trials take one after the other; a kind that was not measured as the others, probes aside."""
        return self._correction * sum(self._uncorrected(trial) for trial in trials)

    def ended(self, trial: Trial, seconds: float) -> None:
        """Learn from a trial that took so long."""
        self._estimated += self._uncorrected(trial)
        self._took += seconds

    @property
    def _correction(self) -> float:
        return self._took / self._estimated if self._estimated else 1.0

    def _uncorrected(self, trial: Trial) -> float:
        own = self._kinds.get(kind(trial))
        if own is not None:
            return own.of(trial)
        alike = [cost for arm, cost in self._kinds.items() if arm.probes == trial.arm.probes]
        costs = alike or list(self._kinds.values())
        return fmean(cost.of(trial) for cost in costs) if costs else 0.0
