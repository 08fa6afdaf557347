"""Probes: the test metric of a network that normalises by other statistics than its moving averages."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import nn

from normsmith import surgery
from normsmith.measure import mismatch
from normsmith.studies.data_edits import FewClasses, tensors
from normsmith.studies.lab import Lab, Measure, Sample
from normsmith.studies.names import named
from normsmith.studies.trial import Outcome
from normsmith.tasks import Task, batches, evaluating, evaluation_batches, forward_of, metric
from normsmith.tasks.data import metric_of
from normsmith.tasks.datasets import length


@named("recalibrated-metric")
def recalibrated_metric(model: nn.Module, task: Task) -> dict[str, float]:
    """The test metric as it is once the batch norms' statistics are measured anew over all training data."""
    replica = copy.deepcopy(model)
    loader = list(evaluation_batches(task, "train"))
    surgery.recalibrate(replica, loader, forward=forward_of(task), gap="none").apply()
    with evaluating(replica):
        return {"recalibrated": metric(task, replica, "test")}


@named("largest-mismatch")
def largest_mismatch(model: nn.Module, task: Task) -> dict[str, float]:
    """How far a norm's output in evaluation is from that in training, at most, in SD; see `measure.mismatch`."""
    stream = batches(task, torch.Generator().manual_seed(0))
    some = [next(stream) for _ in range(length(task.train) // task.batch_size)]
    by_layer = mismatch(model, some, forward_of(task)).values()
    return {"mismatch": max(each.accumulated for each in by_layer)} if by_layer else {}


@named("batch-mode-metric")
def batch_mode_metric(model: nn.Module, task: Task) -> dict[str, float]:
    """The test metric by each batch's own statistics, in batches of test samples composed as those of training are."""
    inputs, targets = tensors(task, "test")
    classes = task.train.classes if isinstance(task.train, FewClasses) else None
    test = (inputs, targets) if classes is None else FewClasses(inputs, targets, classes)
    size = min(task.batch_size, len(targets))
    stream = batches(replace(task, train=test, batch_size=size), torch.Generator().manual_seed(0))
    replica = copy.deepcopy(model)
    with evaluating(replica), surgery.adapt(replica, prior=0.0):
        pairs = [task.forward(replica, next(stream)) for _ in range(len(targets) // size)]
    outputs, wanted = (torch.cat(part) for part in zip(*pairs, strict=True))
    return {"batch mode": metric_of(task, "test", outputs, wanted)}


def final_by(lab: Lab, probe: str) -> Measure:
    """The test metric that a probe measured at the end of a trial; of one that diverged, as `lab.final`."""

    def measure(outcome: Outcome) -> Sample:
        return (outcome.probes[probe][-1], 0) if outcome.status == "finished" else lab.final(outcome)

    return measure


def points_by(lab: Lab, probe: str) -> Measure:
    """The same in the task's points; NaN of a trial that diverged: it says nothing of two statistics of one network."""

    def measure(outcome: Outcome) -> Sample:
        if outcome.status != "finished":
            return math.nan, 0
        return outcome.probes[probe][-1] / lab.task.point, 0

    return measure
