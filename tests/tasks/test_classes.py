"""Training data of one class are refused before anything is trained on them; other data are not looked through."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from normsmith.errors import TaskError
from normsmith.tasks import Task, accuracy, check
from normsmith.tasks.classes import check_classes
from normsmith.tasks.finite import SAMPLES

X = torch.randn(80, 3)


class Rows(Dataset):
    """Dicts, loaded one by one, of a class that their number decides; counts how many are loaded."""

    def __init__(self, count, class_of):
        self.count, self.class_of, self.loaded = count, class_of, 0

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        self.loaded += 1
        return {"x": torch.zeros(3), "y": self.class_of(row)}


def make(train, **changes):
    both = X, torch.arange(80) % 2
    fields = {
        "model": lambda: nn.Linear(3, 4), "train": train, "validation": both, "test": both,
        "loss": nn.functional.cross_entropy, "metric": accuracy, "name": "mine", "batch_size": 8,
    }  # fmt: skip
    return Task(**(fields | changes))


def by_name(model, batch):
    return model(batch["x"] if isinstance(batch, dict) else batch[0]), (
        batch["y"] if isinstance(batch, dict) else batch[1]
    )


@pytest.mark.parametrize(
    ("train", "changes"),
    [
        ((X, torch.full((80,), 3)), {}),
        ([(x, 3) for x in X], {}),
        (Rows(80, lambda row: 3), {"forward": by_name}),
    ],
    ids=["tensors", "samples", "dicts with a forward of their own"],
)
def test_one_class_is_refused_and_named(train, changes):
    with pytest.raises(
        TaskError, match=r"task 'mine': expected .* two classes, got class 3 in all of 80 samples"
    ):
        check(make(train, **changes))


def test_a_class_for_each_position_counts_as_one():
    images = torch.randn(40, 3, 5, 5)
    both = images, torch.arange(1000).view(40, 5, 5) % 2
    segmenting = {"model": lambda: nn.Conv2d(3, 4, 1), "validation": both, "test": both}
    with pytest.raises(TaskError, match="got class 0 in all of 40 samples"):
        check(make((images, torch.zeros(40, 5, 5, dtype=torch.long)), **segmenting))
    check(make(both, **segmenting))


def test_a_second_class_that_is_rare_is_enough():
    rare = torch.zeros(2000, dtype=torch.long)
    rare[-1] = 1
    check(make((torch.randn(2000, 3), rare)))


@pytest.mark.parametrize(
    ("train", "changes"),
    [
        ((X, torch.ones(80, 4)), {"loss": nn.functional.mse_loss, "metric": nn.functional.mse_loss}),
        (
            (X, torch.ones(80, 4).long()),
            {"loss": lambda o, t: (o - t).square().mean(), "metric": lambda o, t: 0.0},
        ),
    ],
    ids=["numbers", "counts"],
)
def test_targets_that_are_no_classes_may_be_all_the_same(train, changes):
    check(make(train, validation=train, test=train, **changes))


def test_no_more_is_loaded_than_is_needed():
    two = Rows(80, lambda row: row % 2)
    task = make(two, forward=by_name)
    output, target = by_name(task.model(), {"x": X, "y": torch.arange(80) % 2})
    check_classes(task, task.model(), output, target)
    assert two.loaded == 0
    many = Rows(SAMPLES + 1, lambda row: 0)
    check_classes(make(many, forward=by_name), task.model(), output, 0 * target)
    assert many.loaded == 0
