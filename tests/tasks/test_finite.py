"""Data with NaN or infinity are refused before anything is trained on them, with the split and the rows."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from normsmith.errors import TaskError
from normsmith.tasks import Task, accuracy, check
from normsmith.tasks.finite import SAMPLES, check_finite


class Rows(Dataset):
    """Dicts, loaded one by one; `bad` says which of them hold NaN."""

    def __init__(self, count, bad=()):
        self.count, self.bad, self.loaded = count, {*bad}, 0

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        self.loaded += 1
        x = torch.full((2, 3), float(row % 7))
        x[1, 2] = math.nan if row in self.bad else 0.0
        return {"x": x, "y": row % 2, "name": f"row {row}"}


def make(train=None, validation=None, test=None):
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    good = (x, y)
    return Task(
        model=lambda: nn.Linear(3, 2), train=train or good, validation=validation or good, test=test or good,
        loss=nn.functional.cross_entropy, metric=accuracy, name="mine", batch_size=8,
    )  # fmt: skip


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_split_and_the_rows_are_named(split, value):
    x, y = torch.randn(1100, 3), torch.arange(1100) % 2
    x[600, 1] = x[7, 2] = value
    with pytest.raises(
        TaskError,
        match=rf"finite numbers in the {split} data, got NaN or infinity in 2 of 1,100 samples, numbers 7, 600",
    ):
        check(make(**{split: (x, y)}))


def test_targets_count_as_data():
    x, y = torch.randn(40, 3), torch.randn(40)
    y[39] = math.nan
    with pytest.raises(TaskError, match="numbers 39"):
        check_finite(make(test=(x, y)), "test")


def test_samples_that_are_loaded_one_by_one_are_looked_at_up_to_a_number():
    with pytest.raises(TaskError, match=r"in 1 of 50 samples, numbers 49 \(from 0\)"):
        check_finite(make(train=Rows(50, bad=[49])), "train")
    rows = Rows(SAMPLES + 50, bad=[SAMPLES + 1])
    check_finite(make(train=rows), "train")
    assert rows.loaded == SAMPLES


def test_scalars_and_empty_tensors_are_no_fault():
    check_finite(make(train=(torch.randn(40, 0), torch.arange(40), torch.randn(40))), "train")
