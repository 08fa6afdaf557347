"""In which forms data may come, and what those are told who bring another."""

import numpy as np
import pytest
import torch
from torch import nn

from normsmith.errors import TaskError
from normsmith.tasks import Task, accuracy, batches, check, fingerprint
from normsmith.tasks.datasets import MOST, as_dataset, hold_out, length


def listed(count=100):
    return [(torch.full((3,), float(i)), i % 2) for i in range(count)]


def test_a_list_of_samples_is_a_dataset():
    """Held out, checked, hashed and batched as any other."""
    samples = listed()
    task = Task(
        model=lambda: nn.Linear(3, 2),
        train=samples,
        test=samples[:9],
        loss=nn.functional.cross_entropy,
        metric=accuracy,
        batch_size=16,
    )
    check(task)
    assert (length(task.train), length(task.validation), length(task.test)) == (80, 20, 9)
    x, y = next(batches(task, torch.Generator().manual_seed(0)))
    assert (x.shape, y.dtype) == ((16, 3), torch.int64)
    assert len(fingerprint(task)) == 64


def test_samples_in_a_list_may_be_dicts():
    rest, held = hold_out(as_dataset([{"x": torch.zeros(3)}] * 10, "train"))
    assert (length(rest), length(held)) == (8, 2)
    assert rest[0].keys() == {"x"}


def test_a_list_of_tensors_is_as_a_tuple_of_them():
    assert length(as_dataset([torch.zeros(7, 3), torch.zeros(7)], "train")) == 7


class Long(torch.utils.data.Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        if isinstance(self.count, Exception):
            raise self.count
        return self.count

    def __getitem__(self, index):
        return torch.zeros(3), 0


class Frame:
    """As a table of pandas looks."""

    iloc = None

    def __len__(self):
        return 5

    def __getitem__(self, name):
        raise KeyError(name)


x, y = np.zeros((100, 3)), np.zeros(100, dtype=np.int64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            (x, y),
            r"a tuple of tensors.*got tuple of ndarray, ndarray; write torch.from_numpy\(array\), for inputs",
        ),
        ([x, y], r"got list of ndarray, ndarray; write torch.from_numpy"),
        (x, r"got a single NumPy array; write torch.from_numpy.*in a tuple: \(inputs, targets\)"),
        (torch.zeros(5, 3), r"got a single Tensor; write \(inputs, targets\)"),
        ((torch.zeros(5, 3), [0] * 5), r"got tuple of Tensor, list; write torch.tensor\(...\)"),
        (tuple(listed()), r"got tuple of tuple, tuple, tuple, … \(100 in all\); samples go in a list"),
        ([0.1, 0.2], r"be a list of samples such as \[\(x0, y0\).*got list of float, float"),
        (iter(listed()), r"got list_iterator; write list\(...\) around it"),
        ({"x": x}, "got dict.*; write a list of such samples"),
        (Frame(), r"got Frame; write \(torch.tensor\(frame.to_numpy\(\)\), targets\)"),
        (Long(10**12), r"at most 100,000,000 samples, got 1,000,000,000,000; .*Subset"),
        (Long(TypeError("no length yet")), "its __len__ raised TypeError: no length yet"),
        (Long(-1), "its __len__ raised ValueError"),
    ],
)
def test_what_is_no_dataset_is_told_what_to_write(data, words):
    with pytest.raises(TaskError, match=f"^task 'mine': train must.*{words}") as caught:
        as_dataset(data, "task 'mine': train")
    assert "\n" not in str(caught.value)


def test_the_longest_dataset_is_taken():
    assert length(as_dataset(Long(MOST), "train")) == MOST
