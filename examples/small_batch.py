"""Batches of 2 and 4: batch norm against batch renormalization on scikit-learn's handwritten digits.

    python examples/small_batch.py

Batch norm trains on the statistics of a batch and is evaluated on running ones. With two samples in a batch the
two have little to do with each other. Renorm lets the running statistics into training, more and more.
Needs scikit-learn for the digits (`pip install 'normsmith[study]'`).
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from normsmith.layers import BatchNorm1d, BatchRenorm1d, InputNorm

SAMPLES, SEEDS = 4_000, 2  # samples seen in training, whatever the batch size


def digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8×8 in a fixed random order: raw integers from 0 to 16."""
    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(data.images)[order].flatten(1).float(), torch.as_tensor(data.target)[order]


def network(norm: str, steps: int) -> nn.Sequential:
    """Two hidden layers with the norm in question; the raw pixels go through InputNorm."""

    def normalised(width: int) -> nn.Module:
        # total_steps scales renorm's schedule: pure batch norm at first, wide open bounds after a third
        return BatchNorm1d(width) if norm == "batch norm" else BatchRenorm1d(width, total_steps=steps)

    return nn.Sequential(
        InputNorm(64),
        nn.Linear(64, 64), normalised(64), nn.ReLU(),
        nn.Linear(64, 64), normalised(64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def accuracy(norm: str, batch_size: int, seed: int) -> float:
    """Train on 1200 images, return the accuracy in evaluation on the other 597."""
    torch.manual_seed(seed)
    images, labels = digits()
    steps = SAMPLES // batch_size
    net = network(norm, steps)
    net[0].fit(images[:1200])  # once, over the training set; saved with the model
    # smaller batches, smaller steps: the usual linear rule
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0015 * batch_size, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(0, 1200, (batch_size,))
        optimizer.zero_grad()
        F.cross_entropy(net(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        return (net(images[1200:]).argmax(1) == labels[1200:]).float().mean().item()


def main() -> None:
    """A table of accuracies in evaluation."""
    torch.set_num_threads(1)
    print(f"{'batch':>5}  {'batch norm':>10}  {'batch renorm':>12}")
    for batch_size in (2, 4, 32):
        means = [
            sum(accuracy(norm, batch_size, seed) for seed in range(SEEDS)) / SEEDS
            for norm in ("batch norm", "batch renorm")
        ]
        print(f"{batch_size:>5}  {means[0]:>10.1%}  {means[1]:>12.1%}")


if __name__ == "__main__":
    main()
