"""Small networks in which results go several ways: through identities, dropout, poolings, reshapes and sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests.surgery.small import Net
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Fan:
    """How to make a network and a batch for it, and why it is here."""

    make: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    why: str

    def model(self) -> nn.Module:
        """The same weights at every call."""
        torch.manual_seed(0)
        return self.make().train()


def vectors() -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def sequences() -> Tensor:
    return torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(1))


def lin(inputs: int = 4, outputs: int = 4) -> nn.Module:
    return nn.Linear(inputs, outputs)


def conv(inputs: int = 4, outputs: int = 4) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def norm() -> nn.Module:
    return nn.BatchNorm1d(4)


def norm2d() -> nn.Module:
    return nn.BatchNorm2d(4)


def behind(passing: Callable[[], nn.Module]) -> nn.Module:
    """lin → norm → passing → act and another; its result → passing → two layers."""

    def body(net: Any, x: Tensor) -> Tensor:
        h = net.passing(net.norm(net.start(x)))
        y = net.later(net.act(h))
        return net.one(y) + net.two(y).sigmoid() + h.mean()

    return Net(
        body,
        start=lin(),
        norm=norm(),
        passing=passing(),
        act=nn.ReLU(),
        later=passing(),
        one=lin(),
        two=lin(),
    )


def two_norms() -> nn.Module:
    """The result of one activation is normalised twice, behind an identity."""

    def body(net: Any, x: Tensor) -> Tensor:
        h = net.end(net.act(net.seat(net.start(x))))
        return net.out(h + net.a(h) * net.b(h))

    return Net(
        body, start=lin(), seat=nn.Identity(), act=nn.ReLU(), end=nn.Identity(), a=norm(), b=norm(), out=lin()
    )


def residual(shortcut: Callable[[], nn.Module], *, normed: bool) -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(net.act(net.shortcut(x) + net.branch(x)))

    branch = nn.Sequential(
        lin(), *([norm()] if normed else []), nn.ReLU(), lin(), *([norm()] if normed else [])
    )
    return Net(body, stem=lin(), shortcut=shortcut(), branch=branch, act=nn.ReLU(), head=lin())


def functional(pool: Callable[[Tensor], Tensor], *, normed: bool, features: int = 4) -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.bn1(net.one(x)) if normed else net.one(x))
        x = F.relu(net.bn2(net.two(x)) if normed else net.two(x))
        return net.head(pool(x))

    parts = {"bn1": norm2d(), "bn2": norm2d()} if normed else {}
    return Net(body, one=conv(3), two=conv(), head=lin(features, 2), **parts)


def shared_activation(*, normed: bool) -> nn.Module:
    act, layers = nn.ReLU(), []
    for inputs in (3, 4):
        layers += [conv(inputs), *([norm2d()] if normed else []), act]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), lin(4, 2))


def siamese() -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        return net.head(net.tower(x) - net.tower(x.flip(0)))

    return Net(body, tower=nn.Sequential(lin(), norm(), nn.ReLU(), lin()), head=lin())


def u_net() -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        x = net.down(x)
        y = F.interpolate(net.inner(F.max_pool2d(x, 2)), scale_factor=2.0)
        return net.up(torch.cat((x, y), 1))

    block = [conv(), norm2d(), nn.ReLU()]
    up = nn.Sequential(conv(8), norm2d(), nn.ReLU(), conv())
    return Net(body, down=nn.Sequential(conv(3), norm2d(), nn.ReLU()), inner=nn.Sequential(*block), up=up)


def dense() -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = torch.cat((x, net.first(net.act1(net.norm1(x)))), 1)
        return net.last(net.act2(net.norm2(x)))

    return Net(
        body, stem=conv(3), norm1=norm2d(), act1=nn.ReLU(), first=conv(), norm2=nn.BatchNorm2d(8), act2=nn.ReLU(),
        last=conv(8),
    )  # fmt: skip


def positions(*, normed: bool) -> nn.Module:
    """A layer of sequences whose mean over time goes into the head."""

    def body(net: Any, x: Tensor) -> Tensor:
        x = net.one(x)
        x = F.relu(net.norm(x.transpose(1, 2)).transpose(1, 2) if normed else x)
        return net.head(x.mean(1))

    return Net(body, one=lin(), head=lin(4, 2), **({"norm": norm()} if normed else {}))


def on_both_sides() -> nn.Module:
    return nn.Sequential(lin(), norm(), nn.ReLU(), nn.Dropout(0.1), norm(), lin())


def branches() -> nn.Module:
    """A sum of three branches, one of them the identity, as re-parametrised blocks are trained."""

    def body(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(net.act(net.one(x) + net.two(x) + net.same(x)))

    return Net(body, stem=lin(), one=lin(), two=lin(), same=nn.Identity(), act=nn.ReLU(), head=lin())


def excited() -> nn.Module:
    """Squeeze and excitation whose gate is shaped before it multiplies."""

    def body(net: Any, x: Tensor) -> Tensor:
        x = net.act(net.bn(net.conv(x)))
        gate = net.gate(net.fc(x.mean((2, 3)))).view(-1, 4, 1, 1)
        return net.last(x * gate.expand_as(x))

    return Net(body, conv=conv(3), bn=norm2d(), act=nn.ReLU(), fc=lin(), gate=nn.Sigmoid(), last=conv())


FANS = {
    "identity": Fan(lambda: behind(nn.Identity), vectors, "who takes it stands behind an identity"),
    "dropout": Fan(lambda: behind(nn.Dropout), vectors, "behind dropout"),
    "empty": Fan(lambda: behind(nn.Sequential), vectors, "behind a Sequential without children"),
    "two norms": Fan(two_norms, vectors, "two norms want one place"),
    "shortcut": Fan(lambda: residual(nn.Identity, normed=False), vectors, "an identity as the skip"),
    "empty shortcut": Fan(lambda: residual(nn.Sequential, normed=False), vectors, "an empty Sequential as the skip"),
    "normed": Fan(lambda: residual(nn.Identity, normed=True), vectors, "a residual block with norms"),
    "mean": Fan(lambda: functional(lambda x: x.mean((2, 3)), normed=False), images, "functions, then a mean"),
    "normed mean": Fan(lambda: functional(lambda x: x.mean((2, 3)), normed=True), images, "norms before a mean"),
    "flatten": Fan(
        lambda: functional(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), normed=True), images, "a flatten of one"
    ),
    "mixing": Fan(
        lambda: functional(lambda x: x.flatten(1), normed=True, features=256), images, "a flatten that mixes"
    ),
    "shared": Fan(lambda: shared_activation(normed=False), images, "one activation, called twice"),
    "shared, normed": Fan(lambda: shared_activation(normed=True), images, "one activation, with norms"),
    "siamese": Fan(siamese, vectors, "a tower that is called twice"),
    "u-net": Fan(u_net, images, "concatenation over pooling and interpolation"),
    "dense": Fan(dense, images, "dense connections"),
    "sequences": Fan(lambda: positions(normed=False), sequences, "channels last, pooled over time"),
    "normed sequences": Fan(lambda: positions(normed=True), sequences, "the same with a norm between transposes"),
    "both sides": Fan(on_both_sides, vectors, "a norm before and a norm after"),
    "branches": Fan(branches, vectors, "a sum of three"),
    "excited": Fan(excited, images, "a gate that is shaped"),
}  # fmt: skip
