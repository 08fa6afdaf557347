"""Mismatch between training and evaluation, on norms whose statistics are off by what is known."""

import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d
from normsmith.measure import mismatch

ROWS = torch.tensor([[-1.0], [1.0]])


def test_a_norm_that_is_off_carries_on_to_the_norms_after_it():
    """The first divides by 2 in evaluation, by 1 in training; the second would be right about what training gives."""
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    model[0].running_var.fill_(4.0)
    off = mismatch(model, [ROWS, ROWS])
    assert off["0"].own == off["0"].accumulated == pytest.approx(0.5, abs=1e-4)
    assert off["1"].own == pytest.approx(0.0, abs=1e-4)
    assert off["1"].accumulated == pytest.approx(0.5, abs=1e-4)


def test_shift_and_scale_do_not_count_nor_do_channels_that_are_constant():
    model = BatchNorm1d(2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([5.0, 0.0]))
        model.bias.fill_(7.0)
    model.running_mean.fill_(1.0)
    off = mismatch(model, [ROWS.repeat(1, 2)])[""]
    assert off.own == pytest.approx(0.5**0.5, abs=1e-4)  # 1 in one channel, 0 in the other


def test_every_batch_meets_the_same_running_statistics():
    model = nn.BatchNorm1d(1, momentum=1.0)  # which one forward in training would replace
    once, twice = mismatch(model, [ROWS + 3]), mismatch(model, [ROWS + 3, ROWS + 3])
    assert once == twice
    assert once[""].own == once[""].accumulated == pytest.approx(3.0, abs=1e-3)


def test_without_a_batch_there_is_nothing_to_say():
    with pytest.raises(InputError, match="at least one batch"):
        mismatch(nn.BatchNorm1d(2), [])
