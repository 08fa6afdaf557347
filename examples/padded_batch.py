"""A padded batch of sequences through convolutions, norms and pooling, as if each sequence were alone.

    python examples/padded_batch.py

Padding reaches more than the statistics of norms: after the first bias it is no longer 0, the next convolution reads
it, and a mean over time counts it. `use_lengths` follows the lengths through all of that; the network is as it was.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from normsmith import use_lengths
from normsmith.layers import BatchNorm1d

LENGTHS = [100, 61, 43, 20]


def network() -> nn.Sequential:
    """Two strided convolutions with norms, a pooling, and the mean over time."""
    return nn.Sequential(
        nn.Conv1d(8, 32, 5, stride=2, padding=2), BatchNorm1d(32), nn.ReLU(),
        nn.Conv1d(32, 32, 3, padding=1), BatchNorm1d(32), nn.ReLU(),
        nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def difference(one: Tensor, other: Tensor) -> float:
    """The largest between two tensors."""
    return float((one - other).detach().abs().max())


def main() -> None:
    """Compare with each sequence by itself: the outputs, and the statistics that a training step leaves."""
    torch.manual_seed(0)
    net = network()
    for norm in (net[1], net[4]):  # as if trained
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    sequences = [torch.randn(8, length) + 1 for length in LENGTHS]
    batch = pad_sequence([sequence.T for sequence in sequences], batch_first=True).transpose(1, 2)

    net.eval()
    alone = torch.cat([net(sequence.unsqueeze(0)) for sequence in sequences])
    padded = net(batch)
    with use_lengths(net, LENGTHS):
        followed = net(batch)
    print(f"outputs, padded:        off by {difference(padded, alone):.1e} from each sequence by itself")
    print(f"outputs, use_lengths:   off by {difference(followed, alone):.1e}")

    net.train()
    net[1].momentum = 1.0  # the running mean is then that of one batch
    together = torch.cat([net[0](sequence.unsqueeze(0)) for sequence in sequences], dim=2).mean((0, 2))
    net(batch)
    padded = net[1].running_mean.clone()
    with use_lengths(net, LENGTHS):
        F.cross_entropy(net(batch), torch.tensor([0, 1, 2, 3])).backward()
    print(
        f"statistics, padded:      off by {difference(padded, together):.1e} from those of all steps that exist"
    )
    print(f"statistics, use_lengths: off by {difference(net[1].running_mean, together):.1e}")


if __name__ == "__main__":
    main()
