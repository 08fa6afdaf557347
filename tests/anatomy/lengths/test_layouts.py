"""Layouts: what the dimensions of tensors are, through merging, splitting and broadcasting."""

from __future__ import annotations

import pytest
import torch

from normsmith.anatomy.lengths.layouts import (
    Layout,
    LayoutError,
    Plain,
    Samples,
    Steps,
    plain,
    together,
    with_lengths,
)

STEPS = Steps(0, (5, 2, 1), 6)
BATCH = Layout.of_shape((3, 4, 6), {0: Samples(3), 2: STEPS})
CPU = torch.device("cpu")


def test_valid_is_a_mask_that_broadcasts() -> None:
    mask = BATCH.valid(CPU)
    assert mask is not None
    assert mask.shape == (3, 1, 6)
    assert mask.sum((1, 2)).tolist() == [5, 2, 1]
    assert BATCH.valid(CPU, [0, 1]) is None
    assert Layout.of_shape((3, 6)).valid(CPU) is None


def test_two_axes() -> None:
    image = Layout.of_shape((2, 3, 4, 5), {0: Samples(2), 2: Steps(0, (4, 2), 4), 3: Steps(1, (1, 5), 5)})
    mask = image.valid(CPU)
    assert mask is not None
    assert mask.sum((1, 2, 3)).tolist() == [4 * 1, 2 * 5]


@pytest.mark.parametrize("order", [(2, 0), (0, 2)])
def test_merged_in_either_order(order) -> None:
    """A flat mask follows the order in which samples and steps were merged."""
    flat = BATCH.permuted((*order, 1)).reshaped((18, 4))
    mask = flat.valid(CPU)
    whole = BATCH.valid(CPU)
    assert mask is not None
    assert whole is not None
    expected = whole[:, 0].T if order == (2, 0) else whole[:, 0]
    assert torch.equal(mask[:, 0], expected.reshape(-1))


def test_steps_merged_with_channels_are_spread_over_them() -> None:
    mask = BATCH.reshaped((3, 24)).valid(CPU)
    assert mask is not None
    assert mask.shape == (3, 24)
    assert mask.sum(1).tolist() == [20, 8, 4]


@pytest.mark.parametrize("shape", [(3, 2, 2, 6), (12, 6), (3, 1, 4, 6, 1), (3, 24), (72,)])
def test_reshaping_there_and_back(shape) -> None:
    assert BATCH.reshaped(shape).reshaped((3, 4, 6)) == BATCH


@pytest.mark.parametrize("shape", [(3, 4, 2, 3), (4, 18), (9, 8)])
def test_what_cuts_steps_up_is_refused(shape) -> None:
    with pytest.raises(LayoutError, match="cuts up"):
        BATCH.reshaped(shape)


def test_one_sample_keeps_its_dimension() -> None:
    one = Layout.of_shape((1, 4, 6), {0: Samples(1), 2: Steps(0, (5,), 6)})
    assert one.reshaped((1, 2, 2, 6)).dim_of_samples() == 0


def test_together() -> None:
    shifted = Layout.of_shape((3, 1, 6), {0: Samples(3), 2: STEPS})
    assert together([BATCH, shifted, Layout.of_shape((4, 1))], (3, 4, 6)) == BATCH
    other = Layout.of_shape((3, 1, 6), {0: Samples(3), 2: Steps(0, (5, 3, 1), 6)})
    with pytest.raises(LayoutError, match=r"lengths of 5, 2, 1 meet lengths of 5, 3, 1; .*total stride"):
        together([BATCH, other], (3, 4, 6))
    with pytest.raises(LayoutError, match="become a dimension of 7"):
        together([BATCH], (3, 4, 7))
    with pytest.raises(LayoutError, match="samples meet lengths of"):
        together([BATCH, Layout.of_shape((6, 1, 3), {0: STEPS, 2: Samples(3)})], (3, 4, 6))


def test_sizes_that_may_change() -> None:
    assert BATCH.with_plain_sizes((3, 8, 6)).dims[1] == (Plain(8),)
    assert plain(1) == ()
    with pytest.raises(LayoutError, match="dimension 2"):
        BATCH.with_plain_sizes((3, 4, 5))
    with pytest.raises(LayoutError, match="3 dimensions"):
        BATCH.with_plain_sizes((3, 4))


def test_lengths_that_may_change() -> None:
    assert with_lengths(STEPS, [2, 1, 1], 3) == Steps(0, (2, 1, 1), 3)
    with pytest.raises(LayoutError, match="nothing is left of sample 2, of length 1"):
        with_lengths(STEPS, [2, 1, 0], 3)
    with pytest.raises(LayoutError, match="would have 4 positions"):
        with_lengths(STEPS, [4, 1, 1], 3)


def test_lengths_without_their_samples_are_refused() -> None:
    with pytest.raises(LayoutError, match="gone"):
        Layout((BATCH.dims[2],)).valid(CPU)
