"""Statistics kept apart for every time step: their rows, updates and fallbacks; and over all steps."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.layers.recurrences import (
    both,
)
from torch import nn

from normsmith.layers import BatchNormLSTM, accumulate, use_mask
from normsmith.layers._step_norm import SequenceNorm, StepNorm
from normsmith.layers.recurrent import RecurrentBase


@both
def test_gamma_starts_as_asked_and_products_have_no_beta(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    assert all((norm.weight == 0.1).all() for norm in layer._norms())
    assert layer.l0.norm_ih.bias is None
    assert layer.l0.norm_hh.bias is None
    if cls is BatchNormLSTM:
        assert (layer.l0.norm_c.bias == 0).all()
    nn.init.zeros_(layer.l0.norm_hh.weight)
    layer(torch.randn(2, 5, 3))
    layer.reset_parameters()
    assert (layer.l0.norm_hh.weight == 0.1).all()
    assert (layer.l0.norm_hh.num_batches_tracked == 0).all()
    assert (cls(3, 4, gamma=1.0, normalize="input").l0.norm_ih.weight == 1).all()


@both
def test_running_statistics_normalise_steps_that_one_sequence_reaches(cls: type[RecurrentBase]) -> None:
    """With sequences of 5 to 50 steps, most batches of 32 end with a single running sequence."""
    layer = cls(3, 8, max_steps=60)
    alone = 0
    for _ in range(3):
        lengths = torch.randint(5, 51, (32,))
        alone += int(lengths.sort().values[-2] < lengths.max())
        mask = torch.arange(int(lengths.max())).unsqueeze(1) < lengths
        output, _ = layer(torch.randn(*mask.shape, 3), mask=mask)
        layer.zero_grad()
        output.square().sum().backward()
        assert output.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
        assert all(buffer.isfinite().all() for buffer in layer.buffers())
    assert alone > 0
    assert layer.l0.norm_hh.num_batches_tracked[0] == 3
    assert layer.l0.norm_hh.num_batches_tracked[50:].sum() == 0


@both
def test_rows_without_updates_use_those_of_the_nearest_earlier_step(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, momentum=1.0)
    layer(torch.randn(4, 8, 3) + 5)
    layer.eval()
    x = torch.randn(6, 8, 3)
    output, _ = layer(x)
    filled = copy.deepcopy(layer)
    for norm in filled._norms():
        norm.running_mean[4:], norm.running_var[4:] = norm.running_mean[3], norm.running_var[3]
        norm.num_batches_tracked.fill_(1)
    torch.testing.assert_close(output, filled(x)[0])


@both
def test_momentum_none_is_the_average_of_each_step(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, momentum=None, max_steps=3)
    xs = [torch.randn(steps, 8, 3) for steps in (2, 5, 3)]
    products = []
    for x in xs:
        layer(x)
        products.append(x @ layer.l0.weight_ih.T)
    norm = layer.l0.norm_ih
    assert norm.num_batches_tracked.tolist() == [3, 3, 2]
    first = torch.stack([product[0].mean(0) for product in products]).mean(0)
    torch.testing.assert_close(norm.running_mean[0], first)
    last = torch.stack([products[1][2:].mean(1).mean(0), products[2][2].mean(0)]).mean(0)
    torch.testing.assert_close(norm.running_mean[2], last)
    variance = torch.stack([products[1][2:].var(1).mean(0), products[2][2].var(0)]).mean(0)
    torch.testing.assert_close(norm.running_var[2], variance)


@both
@pytest.mark.parametrize("cut", [1, 3])
def test_evaluation_in_parts_equals_the_whole(cls: type[RecurrentBase], cut: int) -> None:
    """`first_step` continues the statistics as `hx` continues the states."""
    layer = cls(3, 4, num_layers=2, max_steps=5)
    for _ in range(3):
        layer(torch.randn(7, 16, 3))
    layer.eval()
    x = torch.randn(7, 2, 3)
    whole, final = layer(x)
    head, states = layer(x[:cut])
    tail, states = layer(x[cut:], states, first_step=cut)
    torch.testing.assert_close(torch.cat([head, tail]), whole)
    torch.testing.assert_close(states, final)


def test_first_step_updates_its_rows() -> None:
    layer = BatchNormLSTM(3, 4, max_steps=4)
    layer(torch.randn(2, 8, 3), first_step=1)
    assert layer.l0.norm_c.num_batches_tracked.tolist() == [0, 1, 1, 0]
    layer(torch.randn(2, 8, 3), first_step=7)
    assert layer.l0.norm_c.num_batches_tracked.tolist() == [0, 1, 1, 1]
    assert (layer.l0.norm_ih.running_mean[0] == 0).all()


@both
def test_non_finite_steps_stay_out_of_the_running_statistics(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, bidirectional=True)
    x = torch.randn(3, 6, 3)
    x[2, 0] = float("inf")
    output, _ = layer(x)
    assert not output[2].isfinite().all()
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
    assert layer.l0.norm_ih.num_batches_tracked[:4].tolist() == [1, 1, 0, 0]
    propagating = cls(3, 4, on_nonfinite="propagate")
    propagating(x)
    assert not propagating.l0.norm_ih.running_mean.isfinite().all()


@both
def test_accumulate_makes_one_update_of_each_step(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, dtype=torch.float64)
    parts = [torch.randn(steps, batch, 3, dtype=torch.float64) for steps, batch in ((4, 3), (2, 5))]
    with accumulate(layer):
        for part in parts:
            layer(part)
    norm = layer.l0.norm_ih
    assert norm.num_batches_tracked[:5].tolist() == [1, 1, 1, 1, 0]
    values = torch.cat([part[0] for part in parts]) @ layer.l0.weight_ih.T
    torch.testing.assert_close(norm.running_mean[0], 0.1 * values.mean(0))
    torch.testing.assert_close(norm.running_var[0], 0.9 + 0.1 * values.var(0))
    torch.testing.assert_close(norm.running_var[3], 0.9 + 0.1 * (parts[0][3] @ layer.l0.weight_ih.T).var(0))


def test_steps_one_by_one_equal_all_steps_at_once() -> None:
    whole, parts = StepNorm(3, 4, beta=True), StepNorm(3, 4, beta=True)
    x = torch.randn(5, 6, 3)
    alive = torch.arange(5).unsqueeze(1) < torch.tensor([5, 4, 4, 2, 1, 1])
    together, apart = whole.start(5, 6, 0), parts.start(5, 6, 0)
    y = whole(x, together, 0, alive)
    steps = [parts(x[t : t + 1], apart, t, alive[t : t + 1]) for t in range(5)]
    torch.testing.assert_close(torch.cat(steps)[alive], y[alive])
    whole.finish(together)
    parts.finish(apart)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())
    assert whole.num_batches_tracked.tolist() == [1, 1, 1, 1]


def test_an_update_waits_for_the_end_of_the_forward() -> None:
    norm = StepNorm(3, 4)
    forward = norm.start(2, 6, 0)
    norm(torch.randn(2, 6, 3), forward)
    assert norm.num_batches_tracked.sum() == 0
    norm.finish(forward)
    assert norm.num_batches_tracked.tolist() == [1, 1, 0, 0]


def test_frozen_statistics_normalise_each_step_by_its_row() -> None:
    norm = StepNorm(1, 2, gamma=1.0, eps=0.0)
    norm.running_mean.copy_(torch.tensor([[1.0], [2.0]]))
    norm.running_var.fill_(4.0)
    norm.num_batches_tracked.fill_(1)
    norm.freeze()
    x = torch.full((3, 2, 1), 4.0)
    y = norm(x, norm.start(3, 2, 0))
    assert y[:, 0, 0].tolist() == [1.5, 1.0, 1.0]


def test_over_all_steps_only_the_mask_of_the_call_counts() -> None:
    norm = SequenceNorm(3, gamma=1.0)
    x, mask = torch.randn(4, 5, 3), torch.rand(4, 5) < 0.8
    with use_mask(norm, torch.zeros(20, dtype=torch.bool)):
        y = norm(x)
        assert norm.normalised(x, default_mask=torch.ones(20)).mask is None
    torch.testing.assert_close(y.flatten(0, 1).mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    batch = norm.normalised(x, mask)
    assert batch.x.shape == (20, 3)
    assert batch.mask is not None
    assert torch.equal(batch.mask, mask.flatten())
