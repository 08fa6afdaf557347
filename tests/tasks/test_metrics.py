"""The metric of the embedded tasks, by hand."""

import pytest
import torch

from normsmith.errors import InputError
from normsmith.tasks import accuracy


def test_accuracy():
    output = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert accuracy(output, torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
    per_pixel = output.T.reshape(1, 2, 3)
    assert accuracy(per_pixel, torch.tensor([[0, 1, 0]])) == pytest.approx(2 / 3)
    for bad in (torch.zeros(3, 2), torch.zeros(2), torch.zeros(3, 1)):
        with pytest.raises(InputError, match="accuracy: expected output"):
            accuracy(output, bad)
