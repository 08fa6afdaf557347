"""Masks and sample weights: which shapes and dtypes are taken, and what they become."""

from __future__ import annotations

import pytest
import torch

from normsmith.errors import InputError
from normsmith.ops import masks
from normsmith.ops.masks import element_weights, valid_elements

IMAGES = torch.empty(3, 2, 4, 5)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 1), (1, 4, 5), (1, 1, 1), (3, 1, 5)], ids=str)
def test_masks_have_the_shape_of_the_input_without_channels_or_1(shape):
    valid = valid_elements(torch.ones(shape, dtype=torch.bool), IMAGES)
    assert valid.shape == (shape[0], 1, *shape[1:])
    assert valid.dtype == torch.bool


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5), (3, 5, 4), (3, 2, 4, 5)], ids=str)
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"mask: expected shape \(3, 4, 5\), .* got"):
        valid_elements(torch.ones(shape, dtype=torch.bool), IMAGES)


def test_integers_are_read_as_truth_and_floats_are_refused():
    assert valid_elements(torch.tensor([1, 0, 2]), torch.empty(3, 2)).flatten().tolist() == [
        True,
        False,
        True,
    ]
    with pytest.raises(InputError, match="key_padding_mask means the inverse"):
        valid_elements(torch.ones(3), torch.empty(3, 2))
    assert valid_elements(None, IMAGES) is None


def test_weights_of_samples_hold_for_all_their_positions():
    weights = element_weights(torch.tensor([0.5, 0.0, 2.0]), None, IMAGES, torch.float64)
    assert weights.shape == (3, 1, 1, 1)
    assert weights.dtype == torch.float64
    assert weights.flatten().tolist() == [0.5, 0.0, 2.0]


def test_padding_weighs_nothing():
    valid = valid_elements(torch.tensor([True, False, True]), torch.empty(3, 2))
    x = torch.empty(3, 2)
    assert element_weights(torch.tensor([0.5, 9.0, 2.0]), valid, x, torch.float32).flatten().tolist() == [
        0.5,
        0,
        2,
    ]
    assert element_weights(None, valid, x, torch.float32).flatten().tolist() == [1, 0, 1]
    assert element_weights(None, None, x, torch.float32) is None


def test_weights_take_no_gradient():
    weights = torch.ones(3, requires_grad=True)
    assert not element_weights(weights, None, torch.empty(3, 2), torch.float32).requires_grad


def test_negative_weights_are_an_error_where_looking_costs_nothing_and_0_elsewhere(monkeypatch):
    weights, x = torch.tensor([1.0, -2.0, 1.0]), torch.empty(3, 2)
    with pytest.raises(InputError, match="smallest value of -2"):
        element_weights(weights, None, x, torch.float32)
    monkeypatch.setattr(masks, "eager", lambda: False)
    assert element_weights(weights, None, x, torch.float32).flatten().tolist() == [1, 0, 1]
