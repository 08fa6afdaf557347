"""Evaluation by other statistics than the moving averages, which leaves the network as it was."""

import copy

import pytest
import torch
from tests.contracts.question import outcome
from tests.studies.tiny import task

from normsmith.layers import BatchNorm1d
from normsmith.studies.arms import normalized
from normsmith.studies.lab import Lab
from normsmith.studies.other_statistics import final_by, points_by, recalibrated_metric
from normsmith.studies.trial import Outcome
from normsmith.tasks import evaluate

LAB = Lab(task, (0,), "quick", 100)


def normed():
    torch.manual_seed(0)
    return normalized(None).build(task.model(), task).eval()


def test_recalibration_heals_statistics_and_leaves_the_network_as_it_was():
    model = normed()
    right = recalibrated_metric(model, task)["recalibrated"]
    for module in model.modules():
        if isinstance(module, BatchNorm1d):
            module.running_mean.fill_(50.0)
    before = copy.deepcopy(model.state_dict())
    assert recalibrated_metric(model, task)["recalibrated"] == pytest.approx(right, abs=1e-6)
    assert evaluate(task, model, "test")[1] != pytest.approx(right, abs=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_last_value_of_a_probe_and_of_a_diverged_trial_that_of_the_untrained_network():
    done = outcome(20, 0.9, recalibrated=0.8)
    assert final_by(LAB, "recalibrated")(done) == (0.8, 0)
    assert points_by(LAB, "recalibrated")(done) == (pytest.approx(80.0), 0)
    lost = Outcome("diverged", test=(0.3, 0.5))
    assert final_by(LAB, "recalibrated")(lost) == (0.3, 0)
