"""Recurrent layers beside torch's and a loop of its cells. `python -m benchmarks.recurrent_speed`, half a minute.

`--rows PATTERN` measures the rows whose names match, and keeps nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.protocol import interleave, ratio, spread, write
from normsmith.layers import BatchNormGRU, BatchNormLSTM

STEPS, BATCH, FEATURES = 100, 32, 128
Run = Callable[[Tensor], Tensor]


class Loop(nn.Module):
    """A loop of torch's LSTM cells in Python: what a recurrence with norms within has to be compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """The outputs of all steps."""
        h = c = x.new_zeros(x.shape[1], FEATURES)
        outputs = []
        for step in x.unbind():
            h, c = self.cell(step, (h, c))
            outputs.append(h)
        return torch.stack(outputs), None


def candidates() -> dict[str, tuple[nn.Module, nn.Module, str]]:
    """Ours, the peer, and the goal, by row; a row that ends in "evaluation" records no gradients."""
    sizes = (FEATURES, FEATURES)
    return {
        "LSTM, inputs normalised, evaluation": (BatchNormLSTM(*sizes, normalize="input"), nn.LSTM(*sizes), "nn.LSTM"),
        "GRU, inputs normalised, evaluation": (BatchNormGRU(*sizes, normalize="input"), nn.GRU(*sizes), "nn.GRU"),
        "LSTM, every step normalised, evaluation": (BatchNormLSTM(*sizes), Loop(), "a loop of LSTMCells; goal 1.5"),
        "LSTM, every step normalised, training": (BatchNormLSTM(*sizes), Loop(), "a loop of LSTMCells; goal 1.2"),
    }  # fmt: skip


def evaluated(layer: nn.Module, x: Tensor) -> None:
    """A forward without gradients."""
    with torch.no_grad():
        layer.eval()(x)


def trained(layer: nn.Module, x: Tensor) -> None:
    """A forward and its backward."""
    layer.train()(x)[0].square().mean().backward()


def rows(pattern: str, rounds: int) -> list[str]:
    """The table's rows."""
    torch.manual_seed(0)
    x = torch.randn(STEPS, BATCH, FEATURES)
    lines = []
    for name, (ours, theirs, peer) in candidates().items():
        if not re.search(pattern, name):
            continue
        body = evaluated if name.endswith("evaluation") else trained
        times = interleave({"ours": partial(body, ours, x), "peer": partial(body, theirs, x)}, rounds)
        quotient, took = ratio(times["ours"], times["peer"]), spread(times["ours"]).median
        lines.append(f"| {name} | {1e3 * took:.1f} | {peer} | {quotient} | {quotient.rounds} |")
    return lines


def main() -> None:
    """Measure; all rows are kept in `results/recurrent_speed.md`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", default="", metavar="PATTERN", help="rows whose names match; nothing is kept"
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each row")
    options = parser.parse_args()
    head = ["| what | ours, ms | peer | ours / peer (quartiles) | rounds |", "|---|---|---|---|---|"]
    table = "\n".join(head + rows(options.rows, options.rounds))
    if options.rows:
        print(table)
        return
    write(
        "recurrent_speed", f"Recurrent layers on {STEPS} steps of {BATCH} sequences, {FEATURES} units", table
    )


if __name__ == "__main__":
    main()
