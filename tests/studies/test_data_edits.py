"""Edits of the data: what trains is other data, and what a trial is judged by stays."""

import pytest
import torch
from tests.studies.tiny import make, task
from torch import nn

from normsmith.errors import StudyError
from normsmith.studies.arms import AS_IS, edit
from normsmith.studies.data_edits import (
    batch_size,
    few_classes,
    few_samples,
    label_noise,
    tensors,
    with_inputs,
)
from normsmith.studies.trial import Trial, train
from normsmith.tasks import batches, example

LISTED = make("listed", train=[(torch.zeros(6), 0)] * 64, validation=None, test=[(torch.zeros(6), 0)] * 4)
REGRESSION = make("regression", train=(torch.zeros(64, 6), torch.zeros(64)), validation=None)


def same(one, other):
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    "change",
    [edit(label_noise, share=0.5), edit(few_samples, share=0.5), edit(few_classes, classes=2)],
)
def test_training_data_change_and_what_is_evaluated_does_not(change):
    changed = AS_IS.on("x", change).task(task)
    assert not same(example(changed), example(task))
    for split in ("validation", "test"):
        assert same(tensors(changed, split), tensors(task, split))
    again = change.function(task, **dict(change.arguments))
    assert same(example(again), example(changed)), "drawn with a fixed seed"


def test_the_size_of_batches():
    assert len(example(batch_size(task, 8))[1]) == 8
    with pytest.raises(StudyError, match="at least one batch of 500 samples to train on, got 192"):
        batch_size(task, 500)


def test_so_many_labels_are_drawn_anew():
    (_, labels), (_, noisy) = tensors(task, "train"), tensors(label_noise(task, 0.3), "train")
    assert 0 < (labels != noisy).float().mean() < 0.3  # of three classes a third is drawn as it was
    assert noisy.dtype == labels.dtype


def test_so_many_samples_are_trained_on_each_with_its_label():
    whole, few = tensors(task, "train"), tensors(few_samples(task, 0.25), "train")
    assert len(few[1]) == 48
    own = {(*row, label) for row, label in zip(whole[0].tolist(), whole[1].tolist(), strict=True)}
    kept = {(*row, label) for row, label in zip(few[0].tolist(), few[1].tolist(), strict=True)}
    assert kept < own
    assert len(kept) == 48


@pytest.mark.parametrize("classes", [1, 2])
def test_batches_of_few_classes(classes):
    changed = few_classes(task, classes)
    stream = batches(changed, torch.Generator().manual_seed(0))
    seen = [next(stream) for _ in range(12)]
    assert {len(targets.unique()) for _, targets in seen} == {classes}
    assert len(torch.cat([targets for _, targets in seen]).unique()) == 3, "all of them come in time"
    own = {(*row, label) for row, label in zip(*(t.tolist() for t in tensors(task, "train")), strict=True)}
    assert {(*row, label) for x, y in seen for row, label in zip(x.tolist(), y.tolist(), strict=True)} <= own


def test_a_trial_trains_on_the_arms_data():
    trial = Trial(AS_IS.on("x", edit(label_noise, share=1.0)), 0.2, 0, 20)
    plain = Trial(AS_IS, 0.2, 0, 20)
    assert train(task, trial).test[-1] < train(task, plain).test[-1] - 0.1


def test_the_edited_task_is_made_once_and_an_unedited_one_is_the_task_itself():
    arm = AS_IS.on("x", edit(batch_size, size=8))
    assert AS_IS.task(task) is task
    assert arm.task(task) is arm.called("y").but("z").task(task)
    assert arm != AS_IS
    assert arm.task(task).batch_size == 8


@pytest.mark.parametrize(
    ("change", "other", "message"),
    [
        (lambda t: label_noise(t, 0.1), LISTED, "expected the train data as a pair of tensors.*a list of samples"),
        (lambda t: label_noise(t, 0.1), REGRESSION, "expected one class a sample"),
        (lambda t: few_classes(t, 3), task, "more than 3 classes, got 3"),
        (lambda t: few_samples(t, 0.001), task, "a share of 192 training samples that leaves one or more, got 0.001"),
        (lambda t: few_samples(t, 1.5), task, "leaves one or more, got 1.5"),
        (lambda t: with_inputs(t, lambda x, split: x), make("ids", model=nn.Identity, **{
            split: (torch.zeros(64, 3, dtype=torch.long), torch.zeros(64, dtype=torch.long))
            for split in ("train", "validation", "test")
        }), "in floating point"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_changed_so_are_refused(change, other, message):
    with pytest.raises(StudyError, match=message):
        change(other)
