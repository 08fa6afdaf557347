"""Exact moments of a data set: the same however it is cut, without padding, refused where a value is not finite."""

import pytest
import torch

from normsmith.errors import InputError
from normsmith.layers.dataset import DatasetMoments


def moments(*batches, features=3):
    result = DatasetMoments(features)
    for batch in batches:
        result.add(*batch) if isinstance(batch, tuple) else result.add(batch)
    return result.checked()


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [5, 4, 3]])
@pytest.mark.parametrize("space", [(), (2,), (2, 3)])
def test_cuts_do_not_matter(sizes, space):
    x = torch.randn(12, 3, *space, dtype=torch.float64) * 3 + 1e3
    whole = x.movedim(1, 0).flatten(1)
    cut = moments(*x.split(sizes))
    torch.testing.assert_close(cut.mean, whole.mean(1))
    torch.testing.assert_close(cut.variance, whole.var(1, correction=0))
    assert cut.batches == len(sizes)


def test_padding_counts_nowhere():
    x = torch.randn(6, 3)
    mask = torch.tensor([1, 1, 1, 1, 0, 0])
    padded = torch.where(mask.bool().unsqueeze(1), x, torch.nan)
    masked = moments((padded, mask), (padded, torch.zeros(6, dtype=torch.bool)))
    plain = moments(x[:4])
    torch.testing.assert_close(masked.mean, plain.mean)
    torch.testing.assert_close(masked.variance, plain.variance)
    assert masked.batches == 1


def test_a_feature_that_never_varies_has_a_variance_of_exactly_zero():
    constant = torch.full((7, 1), 0.1)
    assert moments(constant, constant, features=1).variance.item() == 0
    assert moments(constant, constant + 0.1, features=1).variance.item() > 0


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.ones(2, 3, dtype=torch.complex64), "expected real values"),
        (torch.tensor([[1.0, torch.nan, torch.inf]]), r"in feature 1 \(1 times\), 2 \(1 times\)"),
        (torch.full((1, 3), torch.nan), "clean or impute them"),
    ],
)
def test_what_has_no_moments_is_refused(x, says):
    with pytest.raises(InputError, match=says):
        moments(x)


def test_without_values_there_are_no_moments():
    with pytest.raises(InputError, match="expected at least one batch with values"):
        moments(torch.empty(0, 3))
