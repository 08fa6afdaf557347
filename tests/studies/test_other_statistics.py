"""Evaluation by other statistics than the moving averages, which leaves the network as it was."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tests.contracts.question import outcome
from tests.studies.tiny import task

from normsmith import accuracy
from normsmith.layers import BatchNorm1d
from normsmith.studies.arms import normalized
from normsmith.studies.data_edits import few_classes, tensors
from normsmith.studies.lab import Lab
from normsmith.studies.other_statistics import (
    batch_mode_metric,
    final_by,
    largest_mismatch,
    points_by,
    recalibrated_metric,
)
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
    assert math.isnan(points_by(LAB, "recalibrated")(lost)[0]), "it says nothing of two statistics"


def test_mismatch_is_large_where_statistics_are_wrong():
    model = normed()
    recalibrated = largest_mismatch(model.train(), task)["mismatch"]
    for module in model.modules():
        if isinstance(module, BatchNorm1d):
            module.running_mean.fill_(5.0)
    assert largest_mismatch(model, task)["mismatch"] > recalibrated + 1
    assert largest_mismatch(task.model(), task) == {}


def test_batch_mode_is_that_of_training_on_test_samples():
    model = normed()
    before = copy.deepcopy(model.state_dict())
    inputs, targets = tensors(task, "test")
    whole = replace(task, batch_size=len(targets))
    by_hand = accuracy(copy.deepcopy(model).train()(inputs), targets)
    assert batch_mode_metric(model, whole)["batch mode"] == pytest.approx(by_hand, abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_batch_mode_has_as_few_classes_in_a_batch_as_training():
    seen = []

    def forward(model, batch):
        seen.append(len(batch[1].unique()))
        return model(batch[0]), batch[1]

    batch_mode_metric(normed(), replace(few_classes(task, 2), forward=forward))
    assert seen == [2, 2, 2]  # 96 test samples in batches of 32
