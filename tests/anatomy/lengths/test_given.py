"""The arguments of `use_lengths`: what is taken, and what is refused in which words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.anatomy.lengths.given import (
    by_rule,
    layout_of,
    layout_of_input,
    read_lengths,
    read_rules,
    sizes_of_mask,
)
from normsmith.anatomy.lengths.layouts import Layout, LayoutError, Steps
from normsmith.errors import InputError


def test_lengths_and_masks_are_read() -> None:
    assert read_lengths([3, 1]) == ((3, 1),)
    assert read_lengths(torch.tensor([[3, 4], [1, 2]])) == ((3, 1), (4, 2))
    mask = torch.arange(5) < torch.tensor([[3], [1]])
    assert read_lengths(mask) == ((3, 1),)
    assert read_lengths(mask.unsqueeze(2) & (torch.arange(6) < 4)) == ((3, 1), (4, 4))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (torch.tensor([3.0]), r"whole numbers or a bool mask, got torch.float32"),
        ([3, 0], "positive numbers, got 0 for sample 1"),
        ([-1, 3], "positive numbers, got -1 for sample 0"),
        ([], "one for each sample"),
        (torch.ones(2, 3, dtype=torch.long), r"got shape \(2, 3\)"),
        ("many", "a tensor or a list"),
        (torch.tensor([True, False]), "a flat mask does not say which sample comes first"),
        (torch.tensor([[True, False, True]]), "valid positions are each sample's first"),
        (torch.tensor([[False, True]]), "valid positions are each sample's first"),
        (torch.tensor([[True], [False]]), "leaves nothing of"),
    ],
)
def test_what_is_no_lengths_is_refused(lengths, words) -> None:
    with pytest.raises(InputError, match=words):
        read_lengths(lengths)


def test_layouts_of_inputs() -> None:
    assert layout_of_input(torch.zeros(2, 3, 9), ((9, 4),), None).steps == [Steps(0, (9, 4), 9)]
    assert layout_of_input(torch.zeros(9, 2, 3), ((9, 4),), "TNC").dim_of_samples() == 1
    image = layout_of_input(torch.zeros(2, 3, 8, 9), ((8, 4), (9, 5)), None)
    assert image.steps == [Steps(0, (8, 4), 8), Steps(1, (9, 5), 9)]


@pytest.mark.parametrize(
    ("shape", "lengths", "letters", "words"),
    [
        (
            (2, 3, 9),
            ((10, 4),),
            None,
            r"at most 9, the size of T in the input \(2, 3, 9\).*got 10 for sample 0",
        ),
        ((2, 3, 9), ((9, 4, 3),), None, "one for each of 2 samples .* got 3"),
        ((2, 9, 3, 3, 3), ((9, 4),), None, "expected one for an input of 5 dimensions"),
        ((2, 3, 9), ((9, 4),), "NCC", "one N .* and one T, got 'NCC'"),
        ((2, 3, 9), ((9, 4),), "NT", "a letter for each dimension"),
        (
            (2, 5, 9),
            ((5, 4),),
            None,
            r"dimension 1 of the input \(2, 5, 9\) has the size 5; say with layout=",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, lengths, letters, words) -> None:
    with pytest.raises(InputError, match=words):
        layout_of_input(torch.zeros(shape), lengths, letters)


def test_a_mask_is_of_the_input() -> None:
    assert layout_of_input(torch.zeros(2, 3, 9), ((5, 4),), None, sizes_of_mask(torch.ones(2, 9) > 0)).steps
    assert sizes_of_mask([5, 4]) is None
    with pytest.raises(InputError, match=r"a mask of 9 positions, as the input \(2, 3, 9\) has, got 5"):
        layout_of_input(torch.zeros(2, 3, 9), ((5, 4),), None, sizes_of_mask(torch.ones(2, 5) > 0))


def test_rules_are_read() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU(), nn.Linear(1, 1)))
    keep = len
    assert read_rules(net, {"1.*": keep}) == {net[1][0]: keep, net[1][1]: keep}
    assert read_rules(net, {nn.Linear: None, "1": keep}) == {net[0]: None, net[1][1]: None, net[1]: keep}
    assert read_rules(net, None) == {}
    with pytest.raises(InputError, match=r"got '1\.2', which fits none; did you mean"):
        read_rules(net, {"1.2": keep})
    with pytest.raises(InputError, match="expected a function of lengths or None"):
        read_rules(net, {"1": 3})


def test_rules_are_applied() -> None:
    layout = layout_of((2, 3, 9), ((9, 4),), "NCT")
    assert by_rule(lambda lengths: lengths // 2, layout, (2, 5, 4)).steps == [Steps(0, (4, 2), 4)]
    assert by_rule(lambda lengths: (lengths, "NTC"), layout, (2, 9, 1)).steps_of(1) == Steps(0, (9, 4), 9)
    assert by_rule(None, layout, (2, 9)) is None
    with pytest.raises(LayoutError, match="does not fit"):
        by_rule(lambda lengths: lengths, layout, (2, 9))
    with pytest.raises(LayoutError, match="it returned 1 lengths for 2 samples"):
        by_rule(lambda lengths: lengths[:1], layout, (2, 3, 9))
    with pytest.raises(LayoutError, match="it raised ZeroDivisionError"):
        by_rule(lambda lengths: 1 / 0, layout, (2, 3, 9))
    image = layout_of((2, 3, 8, 9), ((8, 4), (9, 5)), "NCHW")
    assert isinstance(by_rule(lambda sizes: sizes // 2, image, (2, 1, 4, 4)), Layout)
