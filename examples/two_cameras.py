"""Two cameras, each with batches of its own: one batch norm for both against a norm for each.

    python examples/two_cameras.py

The handwritten digits of scikit-learn, once as they are and once as another camera takes them: of half the contrast,
and brighter. In training every batch is of one camera and is normalised by itself; in evaluation one running average
has to do for both, and fits neither. Norms for each camera share all weights, γ and β, and keep statistics apart.
Needs scikit-learn for the digits (`pip install 'normsmith[study]'`).
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from normsmith import surgery, use_domain

CAMERAS = ("first", "second")
EPOCHS, TRAINING = 3, 1200


def digits() -> tuple[dict[str, Tensor], Tensor]:
    """1797 images of 64 pixels in a fixed random order, as both cameras take them, and what they show."""
    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images = torch.as_tensor(data.images)[order].flatten(1).float() / 8 - 1
    return {"first": images, "second": 0.5 * images + 1}, torch.as_tensor(data.target)[order]


def network() -> nn.Sequential:
    """Two hidden layers with torch's batch norm."""
    hidden = [
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
    ]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def camera(net: nn.Module, name: str, apart: bool):
    """The block for a camera's forwards; a network without norms for each needs none."""
    return use_domain(net, name) if apart else nullcontext()


def train(net: nn.Module, images: dict[str, Tensor], labels: Tensor, *, apart: bool) -> None:
    """A batch of the first camera, one of the second, and so on."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAINING).split(50):
            for name in CAMERAS:
                optimizer.zero_grad()
                with camera(net, name, apart):
                    F.cross_entropy(net(images[name][batch]), labels[batch]).backward()
                optimizer.step()


@torch.no_grad()
def right(net: nn.Module, images: dict[str, Tensor], labels: Tensor, *, apart: bool) -> list[float]:
    """The share of the held-back images that are recognised in evaluation, for each camera."""
    net.eval()
    shares = []
    for name in CAMERAS:
        with camera(net, name, apart):
            answers = net(images[name][TRAINING:]).argmax(1)
        shares.append(float((answers == labels[TRAINING:]).float().mean()))
    return shares


def main() -> None:
    """Train both networks from the same start, and take the network of one camera out of the second."""
    torch.manual_seed(0)
    images, labels = digits()
    one = network()
    each = surgery.convert(one, to="domain", domains=CAMERAS).apply(copy=True)
    for title, net, apart in (("one batch norm", one, False), ("a norm for each", each, True)):
        torch.manual_seed(1)
        train(net, images, labels, apart=apart)
        first, second = right(net, images, labels, apart=apart)
        print(f"{title}: {first:.1%} right of the first camera, {second:.1%} of the second")

    mixed, index = (
        torch.cat([images[name][TRAINING:] for name in CAMERAS]),
        torch.arange(2).repeat_interleave(597),
    )
    with (
        torch.no_grad(),
        use_domain(each, index),
    ):  # a batch of both cameras, the number of one for each sample
        together = (each(mixed).argmax(1) == labels[TRAINING:].repeat(2)).float().mean()
    print(f"a batch of both cameras, with an index: {together:.1%} right")

    plain = surgery.convert(each, to="torch", domain="second").apply(copy=True)
    with torch.no_grad(), use_domain(each, "second"):
        same = torch.allclose(plain(images["second"]), each(images["second"]), atol=1e-5)
    print(f"the second camera's network, with torch's layers alone, computes the same: {same}")


if __name__ == "__main__":
    main()
