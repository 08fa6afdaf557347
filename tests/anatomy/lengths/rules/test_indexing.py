"""Indices and slices."""

from __future__ import annotations

import pytest
import torch
from unpadded import Runs, assert_as_alone, run_padded

from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, 4, n) for n in (9, 5)]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x[:, :, -1], id="the last position of each"),
        pytest.param(lambda x: x[..., x.size(-1) - 2], id="counted from a size"),
        pytest.param(lambda x: x[:, :, x.size(-1) // 2], id="in the middle"),
        pytest.param(lambda x: x[:, 1:3, 0], id="the first"),
        pytest.param(lambda x: x[:, None, [0, 2][1], 1:-1:2], id="every second"),
        pytest.param(lambda x: x[..., : x.size(-1) - 1], id="all but the last"),
        pytest.param(lambda x: x.select(2, -2) + x.narrow(1, 0, 4)[..., 0], id="select and narrow"),
        pytest.param(lambda x: x[:, torch.tensor([3, 0, 3])], id="channels by a tensor"),
        pytest.param(lambda x: x[:, torch.tensor([True, False, True, True])], id="channels by a mask"),
        pytest.param(lambda x: x.narrow(2, 1, x.size(2) - 1), id="narrowed to a size"),
    ],
)
def test_each_sample_is_what_it_is_alone(function) -> None:
    assert_as_alone(Runs(function), SAMPLES)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x[..., :3], "a slice ends at 3, and whether that is a number of the code"),
        (lambda x: x[..., -3:], "begins at another position"),
        (lambda x: x[..., 7], "index 7 of dimension 2"),
        (lambda x: x[0], "index 0 of dimension 0"),
        (lambda x: x[:1], "some of the samples"),
        (lambda x: x[x > 0], "by a mask"),
        (lambda x: x[..., -6], "not there for every sample"),
        (lambda x: x[..., 1:-4], "nothing is left of sample 1, of length 5"),
        (lambda x: torch.arange(9)[x.long()], "a constant is indexed"),
        (lambda x: x[torch.tensor([0, 1]), :, torch.tensor([0, 1])], "indexed by Tensor"),
    ],
)
def test_what_samples_do_not_have_is_refused(function, words) -> None:
    with pytest.raises(LengthsError, match=words):
        run_padded(function, SAMPLES)
