"""An average of the weights that forgets the running statistics: found, proved and mended by `normsmith check`.

    python examples/averaged.py
    python examples/averaged.py findings.html     also writes the page with the pictures

A network is trained on scikit-learn's handwritten digits, and an exponential moving average of its weights is kept as
many people write it: over `parameters()`. Running means and variances are no parameters, but buffers.
Needs scikit-learn for the digits (`pip install 'normsmith[study]'`).
"""

import copy
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import normsmith
from normsmith.checks import Findings

DECAY = 0.98


def digits() -> tuple[Tensor, Tensor]:
    """1797 images (1, 8, 8) between 0 and 1, and what they show, in a fixed random order."""
    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images = torch.as_tensor(data.images)[order].float() / 16
    return images.unsqueeze(1), torch.as_tensor(data.target)[order]


def network() -> nn.Module:
    """Five convolutions with batch norm."""

    def block(before: int, after: int) -> nn.Module:
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())

    deeper = (block(32, 32) for _ in range(4))
    return nn.Sequential(block(1, 32), nn.MaxPool2d(2), *deeper, nn.Flatten(), nn.Linear(512, 10))


def trained(batches: list[tuple[Tensor, Tensor]]) -> tuple[nn.Module, nn.Module]:
    """A network after ten epochs, and the average of its weights."""
    model = network()
    average = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for images, labels in 10 * batches:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(weight, 1 - DECAY)
    return model, average


def share_right(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of the images that a network recognises in evaluation."""
    with torch.no_grad():
        return float((model.eval()(images).argmax(1) == labels).double().mean())


def main(page: Path | None = None) -> Findings:
    """What was found; written as a page, if a file is named."""
    torch.manual_seed(0)
    images, labels = digits()
    batches = list(zip(images[:1600].split(64), labels[:1600].split(64), strict=True))
    model, average = trained(batches)
    right = [share_right(each, images[1600:], labels[1600:]) for each in (model, average)]
    print(f"right: {right[0]:.1%} by the network, {right[1]:.1%} by its average\n")

    findings = normsmith.check(average, batches, loss=cross_entropy, level="deep", prove=True)
    print(findings)
    average = findings.fix(average)

    print(f"\nright: {share_right(average, images[1600:], labels[1600:]):.1%} by the average, mended")
    if page is not None:
        from normsmith.report import findings_to_html  # pip install 'normsmith[study]'

        page.write_text(findings_to_html(findings), encoding="utf-8")
    return findings


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
