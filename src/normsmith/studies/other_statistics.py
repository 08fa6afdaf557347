"""Probes: the test metric of a network that normalises by other statistics than its moving averages."""

from __future__ import annotations

import copy

from torch import nn

from normsmith import surgery
from normsmith.studies.lab import Lab, Measure, Sample
from normsmith.studies.names import named
from normsmith.studies.trial import Outcome
from normsmith.tasks import Task, evaluating, evaluation_batches, forward_of, metric


@named("recalibrated-metric")
def recalibrated_metric(model: nn.Module, task: Task) -> dict[str, float]:
    """The test metric as it is once the batch norms' statistics are measured anew over all training data."""
    replica = copy.deepcopy(model)
    loader = list(evaluation_batches(task, "train"))
    surgery.recalibrate(replica, loader, forward=forward_of(task), gap="none").apply()
    with evaluating(replica):
        return {"recalibrated": metric(task, replica, "test")}


def final_by(lab: Lab, probe: str) -> Measure:
    """The test metric that a probe measured at the end of a trial; of one that diverged, as `lab.final`."""

    def measure(outcome: Outcome) -> Sample:
        return (outcome.probes[probe][-1], 0) if outcome.status == "finished" else lab.final(outcome)

    return measure


def points_by(lab: Lab, probe: str) -> Measure:
    """The same in the task's points."""
    final = final_by(lab, probe)
    return lambda outcome: (final(outcome)[0] / lab.task.point, 0)
