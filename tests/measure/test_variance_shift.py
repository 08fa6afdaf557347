"""Variance shift: known where dropout's effect on the variance is known."""

import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.measure import variance_shift


def signs(rows: int) -> torch.Tensor:
    """Rows of ±1, as often the one as the other: mean 0, variance 1."""
    return torch.tensor([1.0, -1.0]).repeat(rows // 2)[:, None].repeat(1, 8)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5])
def test_dropout_before_a_norm_shifts_its_variance_by_the_share_that_it_keeps(p):
    model, x = nn.Sequential(nn.Dropout(p), nn.BatchNorm1d(8, momentum=1.0)), signs(4000)
    model(x)  # running statistics: those of training, with variance 1 / (1 − p)
    assert variance_shift(model, [x])["1"] == pytest.approx(1 / (1 - p), rel=0.02)


def test_it_does_not_matter_to_which_side_the_variance_is_off():
    low, high = nn.BatchNorm1d(1, eps=0.0), nn.BatchNorm1d(1, eps=0.0)
    low.running_var.fill_(0.25)
    high.running_var.fill_(4.0)
    x = torch.tensor([[-1.0], [0.0], [1.0]])  # unbiased variance 1
    assert variance_shift(low, [x]) == variance_shift(high, [x]) == {"": 4.0}


def test_layers_that_are_not_called_are_left_out_and_only_selects():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.idle = (nn.BatchNorm1d(2) for _ in range(3))

        def forward(self, x):
            return self.two(self.one(x))

    x = torch.randn(8, 2)
    assert list(variance_shift(Skipping(), [x])) == ["one", "two"]
    assert list(variance_shift(Skipping(), [x], only="two")) == ["two"]


def test_without_a_batch_there_is_nothing_to_say():
    with pytest.raises(InputError, match="at least one batch"):
        variance_shift(nn.BatchNorm1d(2), [])
