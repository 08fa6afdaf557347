import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normsmith.ops import Moments, concatenate, merge, moments
from normsmith.ops.moments import Groups, ghost_groups, spread


def chunks(x, groups):
    sizes = [groups.size] * groups.whole + ([groups.last] if groups.last else [])
    return x.split(sizes)


@given(
    rows=st.integers(1, 13),
    size=st.integers(1, 6),
    space=st.sampled_from([(), (1,), (3,), (2, 2)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_groups_cover_the_batch_and_measure_their_rows(rows, size, space, seed):
    x = torch.randn(rows, 2, *space, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    groups = ghost_groups(rows, x[0, 0].numel(), size)
    if groups is None:
        assert rows <= size or rows == size + 1
        return
    parts = chunks(x, groups)
    assert sum(len(part) for part in parts) == rows
    if size * x[0, 0].numel() > 1:
        assert all(part[:, 0].numel() > 1 for part in parts)
    found = moments(x, groups=groups)
    for index, part in enumerate(parts):
        values = part.transpose(0, 1).flatten(1)
        torch.testing.assert_close((found.mean + found.low)[index], values.mean(1))
        torch.testing.assert_close(found.variance[index], values.var(1, correction=0))
    laid_out = spread(found.mean, x, groups).expand_as(x)
    for part, mean in zip(chunks(laid_out, groups), found.mean, strict=True):
        assert (part.transpose(0, 1).flatten(1) == mean[:, None]).all()


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(lambda s: sum(s) > 1),
    offset=st.sampled_from([0.0, 1e4]),
)
@settings(max_examples=60, deadline=None)
def test_merging_parts_measures_the_whole(sizes, offset):
    torch.manual_seed(sum(sizes))
    parts = [torch.randn(size, 3) + offset for size in sizes]
    whole = torch.cat(parts).double()
    found = merge(concatenate([moments(part) for part in parts]))
    assert found.count.item() == len(whole)
    torch.testing.assert_close(
        (found.mean.double() + found.low.double())[0], whole.mean(0), rtol=1e-9, atol=1e-6
    )
    torch.testing.assert_close(found.variance[0].double(), whole.var(0, correction=0), rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(found.unbiased_variance[0].double(), whole.var(0), rtol=2e-5, atol=1e-6)


def test_weights_are_frequencies_where_they_are_whole():
    x, counts = torch.randn(4, 3, dtype=torch.float64), torch.tensor([1, 3, 0, 2])
    found = moments(x, weights=counts.double().view(4, 1))
    repeated = x.repeat_interleave(counts, 0)
    torch.testing.assert_close(found.mean + found.low, repeated.mean(0, keepdim=True))
    torch.testing.assert_close(found.variance, repeated.var(0, correction=0, keepdim=True))
    assert found.count.item() == 6
    assert found.squares.item() == 14
    factor = 6 / (6 - 14 / 6)
    torch.testing.assert_close(found.unbiased_variance, found.variance * factor)


@pytest.mark.parametrize(
    ("weights", "enough"),
    [([1, 1, 0], True), ([1, 0, 0], False), ([0, 0, 0], False), ([0.1, 0.1, 0], True), ([3, 1, 0], False)],
)
def test_two_effective_values_are_enough(weights, enough):
    found = moments(torch.randn(3, 1), weights=torch.tensor(weights, dtype=torch.float32).view(3, 1))
    assert found.enough.item() is enough
    assert found.variance.isfinite().all()
    assert found.unbiased_variance.isfinite().all()


def test_a_million_values_far_from_zero_keep_their_digits():
    x = torch.randn(1_000_000, 2) + torch.tensor([1e4, 0.0])
    found = moments(x)
    exact = x.double()
    torch.testing.assert_close(
        (found.mean.double() + found.low.double())[0], exact.mean(0), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(found.variance[0].double(), exact.var(0, correction=0), rtol=1e-5, atol=0)


def test_constant_channels_have_no_variance():
    found = moments(torch.full((64, 3), 0.1))
    assert found.variance.max() == 0
    assert isinstance(found, Moments)


def test_a_single_remaining_value_joins_its_neighbour():
    assert ghost_groups(9, 1, 4) == Groups(4, 1, 5)
    assert ghost_groups(9, 4, 4) == Groups(4, 2, 1)
    assert ghost_groups(8, 1, 4) == Groups(4, 2, 0)
