"""What reaches norms from each sample."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import images, mlp, vectors
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.forward import call
from normsmith.checks.finding import UnavailableError
from normsmith.checks.per_sample import samples_at


def test_a_row_is_a_sample_by_itself():
    model = nn.Sequential(nn.BatchNorm2d(3))
    batches = images(4)
    before = state_of(model)
    tables = samples_at(model, [model[0]], batches, call)
    assert state_of(model) == before
    assert [table.shape for table in tables] == [(16, 6)] * 4
    means = torch.cat([x.mean((2, 3)) for x, _ in batches]).double()
    expected = (means - means.mean(0)) / means.std(0) / 6**0.5
    torch.testing.assert_close(torch.cat(tables)[:, :3], expected, rtol=1e-4, atol=1e-5)


def test_modules_count_the_same_and_steps_as_samples_are_put_together():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(x.flatten(0, 1))

    model = Steps()
    x = torch.randn(4, 5, 8)
    (table,) = samples_at(model, [model.norm], [x], call)
    assert table.shape == (4, 16)
    assert float(table.square().sum() / 3) == pytest.approx(1.0)
    model, batches = mlp(), vectors(4)
    tables = samples_at(model, [model[1], model[4]], batches, call)
    assert float(torch.cat(tables).var(0).sum()) == pytest.approx(2.0)


def test_constants_tell_nothing():
    model = nn.Sequential(nn.BatchNorm1d(8))
    with pytest.raises(UnavailableError, match="told apart"):
        samples_at(model, [model[0]], [torch.ones(4, 8)], call)
