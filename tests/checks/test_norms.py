"""What rules ask of a batch norm: is it frozen, is it new, has it trained?"""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import Residual, mlp, trained, vectors
from torch import nn

from normsmith import layers, surgery
from normsmith.checks.norms import norms_of, statistics_tensors


class FrozenBatchNorm2d(nn.Module):
    """As detectron2's: four buffers, and no training."""

    def __init__(self, features: int) -> None:
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((features,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.weight * (self.running_var + 1e-5).rsqrt())[:, None, None]


def test_batch_norms_of_all_origins_and_nothing_else():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2), layers.BatchNorm1d(2), FrozenBatchNorm2d(3))
    assert [norm.path for norm in norms_of(model)] == ["0", "2", "3"]


def test_a_shared_norm_is_one():
    norm = nn.BatchNorm1d(2)
    (found,) = norms_of(nn.Sequential(norm, nn.ReLU(), norm))
    assert (found.path, found.also) == ("0", ("2",))


def test_frozen_by_class_by_freeze_by_mode_and_by_parameters():
    model = nn.Sequential(
        FrozenBatchNorm2d(2),
        layers.BatchNorm2d(2).freeze(),
        nn.BatchNorm2d(2).eval(),
        nn.BatchNorm2d(2).requires_grad_(False),
        nn.BatchNorm2d(2),
    )
    assert [norm.is_frozen for norm in norms_of(model)] == [True, True, True, True, False]


def test_a_model_in_evaluation_or_without_gradients_is_not_frozen():
    for model in (mlp().eval(), mlp().requires_grad_(False)):
        assert not any(norm.is_frozen for norm in norms_of(model))


def test_zero_gamma_is_a_start():
    assert not any(norm.has_trained for norm in norms_of(Residual(zero=True)))
    assert all(norm.has_trained for norm in norms_of(trained(mlp(), vectors(2), 1)))


def test_statistics_at_the_start():
    new, moved = norms_of(mlp())[0], norms_of(trained(mlp(), vectors(2), 1))[0]
    assert new.is_at_start
    assert not moved.is_at_start


def test_settings_are_read_of_every_class():
    norms = norms_of(nn.Sequential(layers.BatchNorm1d(2, eps=0.1, momentum=None), nn.BatchNorm1d(2, eps=0.2)))
    assert [(norm.epsilon, norm.momentum) for norm in norms] == [(0.1, None), (0.2, 0.1)]


def test_layers_without_values_are_read_too():
    lazy, meta = norms_of(nn.Sequential(nn.LazyBatchNorm1d(), nn.BatchNorm1d(2, device="meta")))
    for norm in (lazy, meta):
        assert not norm.is_at_start
        assert not norm.has_trained
        assert statistics_tensors(norm) is None


def test_statistics_that_are_not_finite_are_none():
    model = mlp()
    model[1].running_var[0] = torch.nan
    first, second = norms_of(model)
    assert statistics_tensors(first) is None
    mean, var = statistics_tensors(second)
    assert mean.dtype == var.dtype == torch.float64


def test_who_updates():
    kept, none = norms_of(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)))
    assert (kept.updates, none.updates, none.keeps_statistics) == (True, False, False)


def test_what_is_left_of_the_start_is_known_by_momentum_and_counter():
    layer = nn.BatchNorm1d(4, momentum=0.1)
    for _ in range(5):
        layer(torch.randn(32, 4))
    (norm,) = norms_of(nn.Sequential(layer))
    assert norm.updates_counted == 5
    assert norm.initial_share == pytest.approx(0.9**5)
    layer.running_var.fill_(0.5)  # less than what would be left: the counter is not this average's
    assert norms_of(nn.Sequential(layer))[0].initial_share == 0
    assert norms_of(nn.Sequential(nn.BatchNorm1d(4, momentum=None)))[0].initial_share == 0


def test_pinned_norms_stay_in_training_mode_too():
    model = surgery.freeze(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "statistics").apply()
    assert norms_of(model.train())[0].is_pinned
    evaluated = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    (norm,) = norms_of(evaluated)
    assert norm.is_frozen
    assert not norm.is_pinned
