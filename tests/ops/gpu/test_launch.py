"""From tensors to launches: batches as the kernels see them, masks and weights as one tensor, names of activations."""

from __future__ import annotations

import pytest
import torch

from normsmith._torch import is_as_stored
from normsmith.errors import InputError
from normsmith.ops import ACTIVATIONS
from normsmith.ops.activation import Activation

pytest.importorskip("triton")
from normsmith.ops.gpu import launch


def test_partners_on_another_device_are_refused():
    x, away = torch.randn(4, 3), torch.empty(3, device="meta")
    with pytest.raises(InputError, match=r"device, cpu, got one on meta; .*\.to\(x\.device\)"):
        launch.check_device(x, None, x[0], away)
    batch = launch.geometry(x, None, None)
    with pytest.raises(InputError, match=r"residual: .* got meta"):
        batch.like(away.expand(4, 3))


def test_mask_and_weights_become_one_tensor():
    x = torch.empty(3, 2, 4)
    valid = torch.tensor([True, False, True]).view(3, 1, 1)
    weights = torch.tensor([0.5, 0.0, 2.0]).view(3, 1, 1)
    both = launch.weighed(x, valid, weights)
    assert both.shape == (3, 1, 4)
    assert both[:, 0, 0].tolist() == [0.5, -1.0, 2.0]
    assert launch.weighed(x, valid, None)[:, 0, 0].tolist() == [1.0, -1.0, 1.0]
    assert launch.weighed(x, None, None) is None


def test_a_batch_in_no_layout_that_kernels_know_is_copied():
    x = torch.randn(4, 3, 5, 6).transpose(2, 3)
    batch = launch.geometry(x, None, None)
    assert batch.x.is_contiguous()
    assert torch.equal(batch.x, x)
    assert batch.shape == (1, 3)
    assert launch.geometry(batch.x, None, None).x is batch.x


def test_bits_are_kept_only_for_relu_after_a_residual_and_where_octets_fit():
    batch = launch.geometry(torch.randn(4, 3, 8), None, None)
    residual = batch.x
    assert batch.bits(residual, "relu").numel() == 4 * 3
    assert batch.bits(None, "relu") is None
    assert batch.bits(residual, "silu") is None
    assert launch.geometry(torch.randn(4, 3, 7), None, None).bits(torch.randn(4, 3, 7), "relu") is None


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_known_by_name(name):
    assert launch.name_of(ACTIVATIONS[name]) == name


def test_no_activation_and_unknown_ones():
    assert launch.name_of(None) == "none"
    assert launch.name_of(Activation(torch.sin, torch.mul)) is None


@pytest.mark.parametrize(
    "made",
    [lambda: torch._neg_view(torch.ones(4, 3)), lambda: torch._efficientzerotensor(4, 3)],
    ids=["negated", "zeros"],
)
def test_partners_whose_memory_holds_other_numbers_are_copied(made):
    partner, batch = made(), launch.geometry(torch.randn(4, 3), None, None)
    for copied, like in ((batch.like(partner), partner), (launch.flat(partner[0]), partner[0])):
        assert is_as_stored(copied)
        assert torch.equal(copied, like.clone())


def test_vectors_with_gaps_are_copied():
    column = torch.randn(6, 2)[:, 0]
    flat, none = launch.dense(column, None)
    assert flat.is_contiguous()
    assert torch.equal(flat, column)
    assert none is None
