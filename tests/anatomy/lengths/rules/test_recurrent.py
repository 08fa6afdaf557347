"""Recurrent networks of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from unpadded import Runs, assert_as_alone, run_padded

from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, n, 4) for n in (5, 9, 7)]


class OutputsAndStates(nn.Module):
    """The outputs of a network, with its last states added to each step."""

    def __init__(self, network: nn.RNNBase) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.network.batch_first else x.transpose(0, 1)
        output, states = self.network(x)
        last = states[0] if isinstance(states, tuple) else states
        output = output if self.network.batch_first else output.transpose(0, 1)
        return output + last.sum((0, 2)).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    "network",
    [
        nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True),
        nn.GRU(4, 3, bidirectional=True),
        nn.RNN(4, 3, nonlinearity="relu"),
        nn.GRU(4, 3, 2, dropout=0.5),
    ],
    ids=repr,
)
def test_each_sample_is_what_it_is_alone(network) -> None:
    assert_as_alone(OutputsAndStates(network), SAMPLES, (1,), layout="NTC")


def packs(lengths: list[int]) -> Runs:
    network = nn.LSTM(4, 3, bidirectional=True)

    def run(x: Tensor) -> Tensor:
        own = lengths if len(x) > 1 else [x.size(1)]
        packed = pack_padded_sequence(x, own, batch_first=True, enforce_sorted=False)
        output = pad_packed_sequence(network(packed)[0], batch_first=True)[0]
        return output.transpose(1, 2).contiguous()

    return Runs(run, network)


def test_sequences_that_the_model_packs() -> None:
    assert_as_alone(packs([5, 9, 7]), SAMPLES, (1,), layout="NTC")


def test_packed_by_other_lengths_is_refused() -> None:
    with pytest.raises(
        LengthsError, match=r"packed by the lengths \[9, 7, 4\], and those followed are \[9, 7, 5\]"
    ):
        run_padded(packs([4, 9, 7]), SAMPLES, (1,), layout="NTC")


def test_another_layout_is_refused() -> None:
    with pytest.raises(LengthsError, match=r"expected .time, samples, features"):
        run_padded(nn.GRU(4, 3), SAMPLES, (1,), layout="NTC")
