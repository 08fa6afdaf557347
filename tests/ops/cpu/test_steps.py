"""Steps of a recurrence by a prepared call: γ and β stay, and live as long as the call."""

from __future__ import annotations

import gc

import torch

from normsmith.ops.call import Call
from normsmith.ops.cpu.prepared import prepare
from normsmith.ops.cpu.steps import Steps


def test_vectors_are_those_it_was_made_with():
    x, weight, bias = torch.randn(2, 6, 3), torch.randn(3), torch.randn(3)
    expected = [torch.nn.functional.batch_norm(each, None, None, weight, bias, training=True) for each in x]
    steps = Steps(prepare(x[0], weight, bias, None, False, Call(), None), weight.clone(), bias.clone())
    gc.collect()
    weight.zero_(), bias.zero_()
    y, statistics = torch.empty_like(x), steps.statistics_of(2)
    for step in (1, 0):
        steps.forward_into(y[step], x[step], statistics[step])
        torch.testing.assert_close(y[step], expected[step])


def test_without_vectors():
    x = torch.randn(6, 3)
    steps = Steps(prepare(x, None, None, None, False, Call(), None), None, None)
    y, statistics = torch.empty_like(x), steps.statistics_of(1)
    steps.forward_into(y, x, statistics[0])
    torch.testing.assert_close(y, torch.nn.functional.batch_norm(x, None, None, training=True))
    dx, affine = torch.empty_like(x), torch.empty(2, 3)
    steps.backward_into(dx, affine, torch.ones(6, 3), x, statistics[0])
    torch.testing.assert_close(affine[1], torch.full((3,), 6.0))
