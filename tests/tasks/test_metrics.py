"""The metrics of the embedded tasks, by hand."""

from functools import partial

import pytest
import torch

from normsmith.errors import InputError
from normsmith.tasks import accuracy, r_squared
from normsmith.tasks.metrics import name_of


def test_accuracy():
    output = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert accuracy(output, torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
    per_pixel = output.T.reshape(1, 2, 3)
    assert accuracy(per_pixel, torch.tensor([[0, 1, 0]])) == pytest.approx(2 / 3)
    for bad in (torch.zeros(3, 2), torch.zeros(2), torch.zeros(3, 1)):
        with pytest.raises(InputError, match="accuracy: expected output"):
            accuracy(output, bad)


def test_a_metric_is_called_by_a_name_that_readers_know():
    def f1_score(output, target):
        return 0.0

    class Metric:
        def __call__(self, output, target):
            return 0.0

    f = _accuracy = f1_score
    assert name_of(f1_score) == name_of(f) == name_of(_accuracy) == "f1 score"
    named = lambda output, target: 0.0  # noqa: E731
    named.__name__ = "m"
    assert [name_of(metric) for metric in (Metric(), named, partial(f1_score))] == ["metric"] * 3


def test_r_squared():
    target = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, squares 14
    assert r_squared(target, target) == 1
    assert r_squared(torch.full((4,), 3.0), target) == 0
    assert r_squared(target + 1, target) == pytest.approx(1 - 4 / 14)
    assert (r_squared(torch.ones(2), torch.ones(2)), r_squared(torch.zeros(2), torch.ones(2))) == (1, 0)
    with pytest.raises(InputError, match=r"r_squared: expected .*got \(4, 1\) and \(4,\)"):
        r_squared(target[:, None], target)
