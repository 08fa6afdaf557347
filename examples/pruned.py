"""Channels with a small γ removed from a trained network, and trained on with the same optimizer.

    python examples/pruned.py

An L1 penalty on γ makes the network choose its channels. Half of them are removed, with what their β still did moved
into the next bias: the smaller network computes what the large one does with these γ at 0. Adam's averages of what
stays are cut to size, so that training goes on as if nothing had happened.
Needs scikit-learn for the digits (`pip install 'normsmith[study]'`).
"""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from normsmith import surgery


def digits() -> tuple[Tensor, Tensor]:
    """1797 images (1, 8, 8) between 0 and 1, and what they show, in a fixed random order."""
    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images = torch.as_tensor(data.images)[order].float() / 16
    return images.unsqueeze(1), torch.as_tensor(data.target)[order]


def network() -> nn.Sequential:
    """Three convolutions without padding, so that all of it is exact."""

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(*block(1, 32), *block(32, 32), *block(32, 64), nn.Flatten(), nn.Linear(256, 10))


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of a network."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, epochs: int
) -> None:
    """Epochs with a penalty on γ."""
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(1200).split(50):
            penalty = 0.02 * sum(norm.weight.abs().sum() for norm in norms(model))
            optimizer.zero_grad()
            (F.cross_entropy(model(images[batch]), labels[batch]) + penalty).backward()
            optimizer.step()


@torch.no_grad()
def right(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of the held-back images that a network recognises in evaluation."""
    return float((model.eval()(images[1200:]).argmax(1) == labels[1200:]).float().mean())


def main() -> None:
    """Train, prune half of the channels, compare with γ at 0, train on."""
    torch.manual_seed(0)
    images, labels = digits()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    train(model, optimizer, images, labels, 4)
    print(f"trained: {right(model, images, labels):.1%} right")

    small = float(torch.cat([norm.weight.detach().abs() for norm in norms(model)]).quantile(0.5))
    zeroed = copy.deepcopy(model)
    for norm in norms(zeroed):
        norm.weight.data[norm.weight.abs() < small] = 0
    plan = surgery.prune(model, images[:2], below=small)
    print(plan.title)
    model = plan.apply(optimizer=optimizer)

    with torch.no_grad():
        off = (model.eval()(images) - zeroed.eval()(images)).abs().max()
    print(
        f"pruned: {right(model, images, labels):.1%} right; off by {off:.1e} from the network with these γ at 0"
    )
    train(model, optimizer, images, labels, 1)
    print(f"trained on, by the same optimizer: {right(model, images, labels):.1%} right")


if __name__ == "__main__":
    main()
