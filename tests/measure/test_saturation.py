"""Saturation: counted by hand."""

import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.measure import saturation


@pytest.mark.parametrize(
    ("activation", "values", "flat"),
    [
        (nn.ReLU(), [-1.0, 0.0, 1.0, 2.0], 0.5),
        (nn.Sigmoid(), [0.0, 2.0, 3.0, -3.0], 0.5),  # slopes 0.25, 0.105, 0.045, 0.045
        (nn.Tanh(), [0.0, 1.0, 2.0, -2.0], 0.5),  # slopes 1, 0.42, 0.07, 0.07
    ],
)
def test_flat_is_the_share_of_values_on_a_slope_below_a_fifth(activation, values, flat):
    assert saturation(activation, [torch.tensor([values])]) == {"": flat}


def test_the_share_is_over_the_values_of_all_batches_and_calls():
    activation = nn.ReLU(inplace=True)
    model = nn.Sequential(activation, nn.BatchNorm1d(1), activation)
    batches = [torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0], [1.0]])]
    assert saturation(model, batches) == {"0": 2 / 16}


def test_only_activations_that_are_modules_are_seen():
    assert saturation(nn.Sequential(nn.Linear(2, 2), nn.GELU()), [torch.zeros(1, 2)]) == {}


def test_batches_are_not_written_to():
    batch = torch.tensor([[-1.0, 1.0]])
    assert saturation(nn.ReLU(inplace=True), [batch]) == {"": 0.5}
    assert batch.tolist() == [[-1.0, 1.0]]


def test_no_batch_is_refused():
    with pytest.raises(InputError, match="at least one batch, got none"):
        saturation(nn.ReLU(), [])
