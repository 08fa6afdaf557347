"""The gates' closed forms, without norms, against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.layers._gates import TOGETHER, GRUSteps, LSTMSteps

STEPS, BATCH, SIZE = TOGETHER + 3, 2, 3


@pytest.mark.parametrize(("kind", "theirs"), [(LSTMSteps, nn.LSTM), (GRUSteps, nn.GRU)])
def test_without_norms_it_is_torchs(kind, theirs) -> None:
    layer = theirs(SIZE, SIZE, bias=False, dtype=torch.float64)
    x = torch.randn(STEPS, BATCH, SIZE, dtype=torch.float64)
    states = tuple(
        torch.randn(BATCH, SIZE, dtype=torch.float64, requires_grad=True)
        for _ in range(2 if theirs is nn.LSTM else 1)
    )
    hx = tuple(state.unsqueeze(0) for state in states)
    want, last = layer(x, hx if theirs is nn.LSTM else hx[0])
    run = kind(None, None, None, lambda given: pytest.fail("differentiable operations are not asked for"))
    got, own = run.run(nn.functional.linear(x, layer.weight_ih_l0), layer.weight_hh_l0, states)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.stack(own), torch.cat(last) if theirs is nn.LSTM else last)
    leaves = (*layer.parameters(), *states)
    gradients = [torch.autograd.grad(output.sin().sum(), leaves) for output in (got, want)]
    torch.testing.assert_close(*gradients)


def test_nothing_is_kept_where_nothing_is_differentiated() -> None:
    run = LSTMSteps(None, None, None, lambda given: ())
    h = torch.zeros(BATCH, SIZE)
    _, _, kept = run.forward(torch.randn(STEPS, BATCH, 4 * SIZE), torch.randn(4 * SIZE, SIZE), (h, h), False)
    assert [len(each) for each in kept] == [1, 1, 1, 2, 2]  # of h and c the first as well
