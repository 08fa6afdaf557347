import math

import pytest
import torch

from normsmith.ops import Moments, Renorm, Running, commit, correction, moments, resolve


def running(channels=2, **buffers):
    return Running(torch.zeros(channels), torch.ones(channels), **buffers)


def test_needs_something_to_go_by():
    with pytest.raises(ValueError, match="got neither"):
        resolve(None, None, 1e-5)
    with pytest.raises(ValueError, match="renorm needs running statistics"):
        resolve(moments(torch.randn(4, 2)), None, 1e-5, Renorm(3, 5))


def test_correction_is_within_its_bounds_and_has_no_gradient():
    x = (torch.randn(64, 2) * torch.tensor([10.0, 0.01]) + torch.tensor([30.0, 0.0])).requires_grad_()
    r, d = correction(moments(x), running(), 1e-5, Renorm(2.0, 3.0))
    assert r.tolist() == [[2.0, 0.5]]
    assert d[0, 0] == 3
    assert abs(d[0, 1]) < 0.1
    assert not r.requires_grad
    assert not d.requires_grad


@pytest.mark.parametrize(
    "bounds", [Renorm(0.3, -2.0), Renorm(torch.tensor(0.3), torch.tensor(-2.0)), Renorm(1.0, 0.0)]
)
def test_bounds_never_fall_below_batch_norm(bounds):
    r, d = correction(moments(torch.randn(8, 2) * 5 + 3), running(), 1e-5, bounds)
    assert r.tolist() == [[1, 1]]
    assert d.abs().tolist() == [[0, 0]]


def test_unbounded_bounds_are_not_clipped():
    r, _ = correction(moments(torch.randn(8, 2) * 1000), running(), 0.0, Renorm(math.inf, math.inf))
    assert r.min() > 100


def test_groups_with_too_few_values_go_by_the_running_statistics():
    x = torch.randn(4, 2)
    weights = torch.tensor([1.0, 0, 0, 0]).view(4, 1)
    found = resolve(
        moments(x, weights), Running(torch.full((2,), 3.0), torch.full((2,), 4.0)), 0.0, Renorm(3.0, 5.0)
    )
    assert found.mean.tolist() == [[3, 3]]
    assert found.inv_std.tolist() == [[0.5, 0.5]]
    assert found.r.tolist() == [[1, 1]]
    assert found.d.tolist() == [[0, 0]]
    assert not found.by_batch.any()


def test_commit_moves_by_momentum():
    state = running()
    commit(state, moments(torch.tensor([[0.0, 1.0], [4.0, 1.0]])), momentum=0.25)
    assert state.mean.tolist() == [0.5, 0.25]
    assert state.var.tolist() == [2.75, 0.75]


def test_commit_without_momentum_averages():
    state = running(1, batches=torch.tensor(0))
    batches = torch.randn(5, 8, 1)
    for batch in batches:
        commit(state, moments(batch), momentum=None)
    torch.testing.assert_close(state.mean, batches.mean((0, 1)))
    torch.testing.assert_close(state.var, batches.var(1).mean(0))
    assert state.batches == 5


def test_commit_without_momentum_needs_a_counter():
    with pytest.raises(ValueError, match="counter"):
        commit(running(), moments(torch.randn(4, 2)), momentum=None)


def test_batches_that_are_not_taken_do_not_dilute_the_average():
    state = running(1, batches=torch.tensor(0))
    commit(state, moments(torch.full((4, 1), torch.nan)), momentum=None)
    assert state.batches == 0
    commit(state, moments(torch.tensor([[2.0], [4.0]])), momentum=None)
    assert state.mean.item() == 3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_statistics_that_are_not_finite_are_skipped_by_channel(bad):
    x = torch.randn(8, 2)
    x[3, 0] = bad
    state = running()
    commit(state, moments(x))
    assert state.mean[0] == 0
    assert state.var[0] == 1
    assert state.mean[1] != 0
    commit(state, moments(x), on_nonfinite="propagate")
    assert not state.var[0].isfinite()


def test_the_running_deviation_follows_the_deviation():
    state = running(1, std=torch.ones(1))
    commit(state, moments(torch.tensor([[0.0], [4.0]])), momentum=0.5, eps=0.0)
    assert state.std.item() == 1.5


def test_ghost_batches_make_one_update_from_their_averages():
    x = torch.randn(9, 2)
    from normsmith.ops.moments import ghost_groups

    state = running()
    commit(state, moments(x, groups=ghost_groups(9, 1, 4)), momentum=1.0)
    parts = x[:4], x[4:]
    torch.testing.assert_close(state.mean, torch.stack([part.mean(0) for part in parts]).mean(0))
    torch.testing.assert_close(state.var, torch.stack([part.var(0) for part in parts]).mean(0))


def test_nothing_to_measure_changes_nothing():
    state = running(batches=torch.tensor(0))
    commit(state, moments(torch.zeros(0, 2)))
    commit(state, Moments(1.0, torch.ones(1, 2), torch.zeros(1, 2), 1.0, torch.zeros(1, 2)))
    assert state.mean.tolist() == [0, 0]
    assert state.batches == 0
