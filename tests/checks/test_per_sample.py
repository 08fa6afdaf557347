"""What reaches norms from each sample, and how much samples resemble each other."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import images, mlp, vectors
from torch import nn

from normsmith.checks.finding import UnavailableError
from normsmith.checks.per_sample import SampleRows, products


def rows_of(model, modules, x, samples=None, most=1024):
    rows = SampleRows(modules, len(x) if samples is None else samples, most)
    with torch.no_grad(), rows.watching():
        model.eval()(x)
    assert not any(module._forward_pre_hooks for module in modules)
    return rows.take()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_row_is_a_sample_by_itself(layout):
    model = nn.Sequential(nn.BatchNorm2d(3))
    x = (images(1)[0][0] + 2).to(memory_format=layout)
    (table,) = rows_of(model, [model[0]], x)
    expected = torch.cat([x.double().mean((2, 3)), x.double().square().mean((2, 3))], 1)
    torch.testing.assert_close(table.double(), expected, rtol=1e-6, atol=1e-6)
    (first,) = rows_of(model, [model[0]], x, most=5)
    assert torch.equal(first, table[:5])


def test_what_is_kept_is_one_piece_of_memory():
    model, (x, _) = mlp(), vectors(1)[0]
    one, other = rows_of(model, [model[1], model[4]], x)
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    assert one.shape == other.shape == (32, 32)


def test_steps_of_a_sample_and_calls_are_put_together():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8, affine=False, eps=0.0)

        def forward(self, x):
            x = x.flatten(0, 1)
            return self.norm(self.norm(x) + 1)

    model, x = Steps(), torch.randn(4, 5, 8)
    (table,) = rows_of(model, [model.norm], x)
    torch.testing.assert_close(table[:, :8], x.mean(1) + 0.5)
    squares = (x.square().mean(1) + (x + 1).square().mean(1)) / 2
    torch.testing.assert_close(table[:, 8:], squares)


def test_what_is_not_of_each_sample_is_left_out():
    model = nn.Sequential(nn.BatchNorm1d(8))
    assert rows_of(model, [model[0]], torch.randn(6, 8), samples=4) == [None]


def test_products_are_those_of_standardised_columns_and_modules_count_the_same():
    tables = [[torch.randn(5, 3) * 9 + 50, torch.randn(5, 2)] for _ in range(3)]
    expected = torch.zeros(15, 15, dtype=torch.float64)
    for number in range(2):
        every = torch.cat([one[number] for one in tables]).double()
        scaled = (every - every.mean(0)) / every.std(0)
        expected += scaled @ scaled.T / every.shape[1]
    torch.testing.assert_close(products(tables), expected)
    assert float(products(tables).trace() / 14) == pytest.approx(2.0)


def test_constants_tell_nothing():
    alike = torch.cat([torch.ones(4, 1), torch.arange(4.0)[:, None]], 1)
    torch.testing.assert_close(products([[alike]]), products([[alike[:, 1:]]]))
    with pytest.raises(UnavailableError, match="told apart"):
        products([[torch.ones(4, 8)], [torch.ones(4, 8)]])
    with pytest.raises(UnavailableError, match="told apart"):
        products([[torch.randn(4, 8)], [None]])
