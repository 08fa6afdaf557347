"""Sequences of different lengths: padded and masked training equals training on the sequences as they are.

    python examples/masked_sequence.py

A network that sees every time step, a batch norm in it, and a mean over time. It is trained three times from the
same start: on the sequences laid end to end (no padding exists), padded with a mask, and padded without one.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from normsmith.layers import BatchNorm1d

STEPS, BATCH, FEATURES, HIDDEN = 100, 16, 4, 16


class Net(nn.Module):
    """Per-step features, batch norm, mean over the steps of a sequence, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, HIDDEN)
        self.norm = BatchNorm1d(HIDDEN)
        self.head = nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor, mask: Tensor | None, lengths: Tensor) -> Tensor:
        """x: (batch, time, features); mask: (batch, time), True where there is a step and not padding."""
        h = self.embed(x).transpose(1, 2)  # channels come second
        h = F.relu(self.norm(h, mask=mask))  # padding is 0 after it, and stays 0
        return self.head(h.sum(2) / lengths[:, None])

    def end_to_end(self, sequences: list[Tensor]) -> Tensor:
        """The same without any padding: all steps of all sequences are one long batch."""
        h = F.relu(self.norm(self.embed(torch.cat(sequences))))
        parts = h.split([len(sequence) for sequence in sequences])
        return self.head(torch.stack([part.mean(0) for part in parts]))


def batch(generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Random walks of 5 to 50 steps; the class says whether the first feature drifts up."""
    lengths = torch.randint(5, 51, (BATCH,), generator=generator)
    labels = torch.randint(0, 2, (BATCH,), generator=generator)
    sequences = []
    for length, label in zip(lengths.tolist(), labels.tolist(), strict=True):
        steps = torch.randn(length, FEATURES, generator=generator)
        steps[:, 0] += 0.4 if label else -0.4
        sequences.append(steps.cumsum(0))
    return sequences, labels


def train(net: Net, how: str) -> Net:
    """100 steps on the same batches, fed in one of the three ways."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        sequences, labels = batch(generator)
        if how == "end to end":
            logits = net.end_to_end(sequences)
        else:
            lengths = torch.tensor([len(sequence) for sequence in sequences])
            x = pad_sequence(sequences, batch_first=True)
            mask = torch.arange(x.shape[1]) < lengths[:, None]
            logits = net(x, mask if how == "masked" else None, lengths)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    return net


def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between parameters or running statistics of two networks."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def main() -> None:
    """Train three times and compare what came out."""
    torch.manual_seed(0)
    start = Net().double()
    torch.set_default_dtype(torch.float64)  # so that rounding does not blur the comparison
    exact = train(copy.deepcopy(start), "end to end")
    for how in ("masked", "not masked"):
        trained = train(copy.deepcopy(start), how)
        print(f"padded, {how}: differs by {difference(trained, exact):.1e} from training without padding")


if __name__ == "__main__":
    main()
