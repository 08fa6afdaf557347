"""A trial, which is one arm trained once from one seed at one learning rate, and its outcome."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from normsmith.studies.arms import Arm
from normsmith.studies.names import name_of
from normsmith.studies.store import Record, Status, key_of
from normsmith.tasks import Task, batches, build, evaluating, metric, seeded
from normsmith.tasks.resample import resampled_metric

ENGINE = 5
"""Part of every key: raised whenever the training loop below would give other numbers."""

RESAMPLED = 20
"""On how many bootstrap samples of the test split the final metric is measured, for the error of the split itself."""

PROBES = 4
"""How often the probes run in a trial, evenly spread; the last time at the end."""

_MEASURED = ("steps", "loss", "validation", "test", "probes", "resampled")

Detail: TypeAlias = Literal["curve", "end", "metric"]
"""What a trial measures: everything along its way, everything but at its end alone, or there the metric alone."""


@dataclass(frozen=True)
class Trial:
    """Everything that decides the result of one training run, apart from the task.

    Trials with the same seed and stream start from the same weights (where shapes agree) and see the same
    batches in the same order, whatever their arm. `stream` tells apart repetitions that must be independent. With less
    `detail` the metrics before and after training are the same: they are enough to rank settings, and to count those
    at which a target is reached.
    """

    arm: Arm
    learning_rate: float
    seed: int
    steps: int
    detail: Detail = "curve"
    stream: int = 0

    def spec(self) -> dict[str, Any]:
        """The trial as JSON; its data are named only where an edit changes them."""
        data = [edit.spec() for edit in self.arm.data]
        return {
            "arm": [edit.spec() for edit in self.arm.edits],
            **({"data": data} if data else {}),
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "stream": self.stream,
            "steps": self.steps,
            "detail": self.detail,
            "probes": [name_of(probe) for probe in self.arm.probes],
        }

    def content(self, task_fingerprint: str) -> dict[str, Any]:
        """What the store keeps beside the result: with the versions, all that the key is a hash of."""
        return {**self.spec(), "task": task_fingerprint, "engine": ENGINE}

    def key(self, task_fingerprint: str, versions: dict[str, str]) -> str:
        """SHA-256 over the trial, the task and the versions that compute it."""
        return key_of(self.content(task_fingerprint), versions)


@dataclass(frozen=True)
class Outcome:
    """What a trial measured. Curves have one entry per evaluation, the first before any training.

    `resampled` is the final test metric on other samples like those of the test split, the same for every trial.
    `uncovered` names files of the user's that ran although no key covers them: such an outcome is not stored.
    """

    status: Status
    reason: str = ""
    steps: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()
    test: tuple[float, ...] = ()
    probes: dict[str, tuple[float, ...]] = field(default_factory=dict)
    resampled: tuple[float, ...] = ()
    seconds: float = 0.0
    uncovered: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether the trial says something about its arm: divergence does, a crash does not."""
        return self.status in ("finished", "diverged")

    def measurements(self) -> dict[str, Any]:
        """The numbers as a store keeps them."""
        return {name: getattr(self, name) for name in _MEASURED}

    @classmethod
    def of(cls, record: Record) -> Outcome:
        """The outcome that a store kept."""
        curves = {name: tuple(record.measurements.get(name, ())) for name in _MEASURED if name != "probes"}
        probes = {name: tuple(values) for name, values in record.measurements.get("probes", {}).items()}
        return cls(record.status, record.reason, **curves, probes=probes, seconds=record.seconds)


def evaluation_steps(steps: int) -> tuple[int, ...]:
    """After which steps a trial of `steps` is evaluated: ever a twentieth of the way so far, and at the end.

    A number of steps is thus known to within 5 %, wherever the target is met; in the beginning to within a 50th of the
    whole, since there are no more evaluations than users can afford.

    >>> evaluation_steps(150)[:4], evaluation_steps(150)[-4:], len(evaluation_steps(150))
    ((3, 6, 9, 12), (133, 139, 145, 150), 41)
    """
    reached = [0]
    while reached[-1] < steps:
        reached.append(min(steps, reached[-1] + max(1, -(-steps // 50), reached[-1] // 20)))
    return tuple(reached[1:])


def probe_steps(evaluated: Sequence[int], steps: int) -> tuple[int, ...]:
    """After which of its evaluations a trial of `steps` ran its probes.

    >>> probe_steps((0, 3, 6, 9, 12), 12), probe_steps((0, 12), 12)
    ((3, 6, 9, 12), (12,))
    """
    done, at = 0, []
    for step in evaluated:
        if steps and step * PROBES // steps > done:
            done = step * PROBES // steps
            at.append(step)
    return tuple(at)


def stream_seed(purpose: str, seed: int, stream: int) -> int:
    """A 63-bit seed of its own for each purpose, equal on every machine and in every process."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def train(task: Task, trial: Trial) -> Outcome:
    """Train one arm from its seed and measure it as it goes.

    A loss or an output that stops being finite ends the trial as *diverged*: a result. Exceptions of the
    user's code are left to the caller.
    """
    started = time.perf_counter()
    task = trial.arm.task(task)
    model = built(task, trial.arm, trial.seed, trial.stream)
    optimizer = task.optimizer(model.parameters(), trial.learning_rate)
    order = torch.Generator().manual_seed(stream_seed("batch order", trial.seed, trial.stream))
    log = _Log(task, model, trial)
    with seeded(stream_seed("training noise", trial.seed, trial.stream), task.device):
        log.evaluate(step=0, loss=math.nan)
        reason = _steps(task, trial, model, optimizer, batches(task, order), log)
    return log.outcome("diverged" if reason else "finished", reason, time.perf_counter() - started)


def built(task: Task, arm: Arm, seed: int, stream: int) -> nn.Module:
    """The network of an arm as it is before the first step, of a task with the arm's data."""
    fresh = build(task, stream_seed("initial weights", seed, stream))
    with seeded(stream_seed("edits", seed, stream), task.device):
        return arm.build(fresh, task).to(task.device)


@lru_cache(maxsize=64)
def untrained(task: Task, arm: Arm, seed: int, stream: int) -> float:
    """The test metric that an arm's trials of a seed have before the first step.

    Raises:
        SurgeryError: the task's network cannot be the arm's.
    """
    task = arm.task(task)
    model = built(task, arm, seed, stream)
    with evaluating(model), seeded(stream_seed("evaluation noise", seed, stream), task.device):
        return metric(task, model, "test")


def _steps(
    task: Task,
    trial: Trial,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    stream: Iterator[Any],
    log: _Log,
) -> str:
    """The training loop; returns why it ended early, or nothing."""
    model.train()
    summed, counted = 0.0, 0
    evaluations = set(evaluation_steps(trial.steps)) if trial.detail == "curve" else {trial.steps}
    for step in range(1, trial.steps + 1):
        output, target = task.forward(model, next(stream))
        loss = task.loss(output, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            return f"the loss became {value} at step {step}"
        summed, counted = summed + value, counted + 1
        if step in evaluations:
            log.evaluate(step, summed / counted)
            summed, counted = 0.0, 0
            if not log.finite:
                return f"the metric became non-finite at step {step}"
    return ""


class _Log:
    """Collects curves and probes while a model trains."""

    def __init__(self, task: Task, model: nn.Module, trial: Trial) -> None:
        self.task, self.model, self.trial = task, model, trial
        self.steps: list[int] = []
        self.loss: list[float] = []
        self.validation: list[float] = []
        self.test: list[float] = []
        self.probes: dict[str, list[float]] = {}
        self.probed = 0
        self.resampled: tuple[float, ...] = ()
        self.finite = True

    def evaluate(self, step: int, loss: float) -> None:
        noise = stream_seed("evaluation noise", self.trial.seed, self.trial.stream)
        with (
            evaluating(self.model),
            seeded(noise, self.task.device),
        ):  # so that measuring does not change training
            validation = metric(self.task, self.model, "validation")
            test = metric(self.task, self.model, "test")
            if self.trial.detail != "metric" and step == self.trial.steps:
                self.resampled = resampled_metric(self.task, self.model, "test", RESAMPLED)
        self.finite = math.isfinite(validation) and math.isfinite(test)
        if not self.finite:
            return
        self.steps.append(step)
        self.loss.append(loss)
        self.validation.append(validation)
        self.test.append(test)
        if self.trial.detail != "metric" and step * PROBES // self.trial.steps > self.probed:
            self.probed = step * PROBES // self.trial.steps
            for probe in self.trial.arm.probes:
                for name, value in probe(self.model, self.task).items():
                    self.probes.setdefault(name, []).append(value)

    def outcome(self, status: Status, reason: str, seconds: float) -> Outcome:
        return Outcome(
            status,
            reason,
            steps=tuple(self.steps),
            loss=tuple(self.loss),
            validation=tuple(self.validation),
            test=tuple(self.test),
            probes={name: tuple(values) for name, values in self.probes.items()},
            resampled=self.resampled,
            seconds=seconds,
        )
