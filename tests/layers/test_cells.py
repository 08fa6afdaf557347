"""One layer in one direction: gradients through the recurrences, and what a cell learns."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.layers.recurrences import (
    both,
    lively,
)
from torch import Tensor, nn

from normsmith.layers import BatchNormLSTM
from normsmith.layers._cells import CellBase, GRUCell, LSTMCell, NormSettings
from normsmith.layers._step_norm import SequenceNorm
from normsmith.layers.recurrent import RecurrentBase

SETTINGS = NormSettings("all", 4, 0.1, 1e-5, 0.1, "error", "skip")

cells = pytest.mark.parametrize("cell", [LSTMCell, GRUCell])


@cells
def test_what_comes_after_the_end_of_a_sequence_changes_nothing(cell: type[CellBase]) -> None:
    layer = cell(3, 4, True, SETTINGS, None, None)
    x, alive = torch.randn(5, 3, 3), torch.arange(5).unsqueeze(1) < torch.tensor([5, 3, 4])
    initial = (torch.zeros(3, 4),) * cell.states
    twin = copy.deepcopy(layer)
    output, states = layer(torch.where(alive.unsqueeze(2), x, 1e3), initial, alive, 0)
    expected, last = twin(torch.where(alive.unsqueeze(2), x, 0.0), initial, alive, 0)
    assert (output[~alive] == 0).all()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(states, last)
    torch.testing.assert_close(states[0][1], output[2, 1])


@cells
def test_only_inputs_are_normalised_where_that_is_asked(cell: type[CellBase]) -> None:
    settings = NormSettings("input", 4, 0.1, 1e-5, 0.1, "error", "skip")
    layer = cell(3, 4, False, settings, None, None)
    norms = {name: type(norm) for name, norm in layer.named_children()}
    assert norms == {"norm_ih": SequenceNorm}
    assert layer.bias is None


@cells
def test_the_running_statistics_are_updated_once_for_each_step(cell: type[CellBase]) -> None:
    layer = cell(3, 4, True, SETTINGS, None, None)
    layer(torch.randn(3, 6, 3), (torch.zeros(6, 4),) * cell.states, None, 1)
    for norm in layer.children():
        assert norm.num_batches_tracked.tolist() == [0, 1, 1, 1]


@both
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(cls: type[RecurrentBase], training: bool) -> None:
    layer = lively(cls(2, 2, bidirectional=True, dtype=torch.float64)).train(training)
    layer.freeze("batch" if training else "running")  # the same function at every call
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])

    def run(x: Tensor, h: Tensor, *_: Tensor) -> Tensor:
        return layer(x, (h, h.sin()) if cls is BatchNormLSTM else h, mask=mask)[0]

    assert torch.autograd.gradcheck(run, (x, h, *layer.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, h), fast_mode=True)


@both
def test_learns_to_sum(cls: type[RecurrentBase]) -> None:
    """The mean of a sequence of its own length, at its end: a loss that falls by far, in evaluation too."""
    net = nn.ModuleDict({"rnn": cls(1, 16), "head": nn.Linear(16, 1)})
    optimizer = torch.optim.Adam(net.parameters(), lr=0.06)

    def loss() -> Tensor:
        lengths = torch.randint(2, 5, (64,))
        x, mask = torch.randn(4, 64, 1), torch.arange(4).unsqueeze(1) < lengths
        states = net["rnn"](x, mask=mask)[1]
        h = states[0] if cls is BatchNormLSTM else states
        target = torch.where(mask.unsqueeze(2), x, 0.0).sum(0) / lengths.sqrt().unsqueeze(1)
        return (net["head"](h[0]) - target).square().mean()

    first = loss().item()
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    with torch.no_grad():
        assert net.train()["rnn"].training
        assert loss().item() < first / 3
        net.eval()
        assert loss().item() < first / 2
