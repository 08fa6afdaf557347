"""Layers and whole networks as users run them: torch's batch norms against ours, which surgery puts in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Effort, Times, timed
from benchmarks.peers import Body
from normsmith.layers import BatchNorm1d, BatchNorm2d, BatchNormAct2d
from normsmith.surgery import convert

SHAPE = (60, 100)
"""Of the batch on which the cost of a call is measured."""
CALLS = 100


def per_call(effort: Effort) -> Iterator[tuple[str, Times]]:
    """Seconds of a call of a layer: forward, and forward with backward."""
    x, g = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    both = {"ours": BatchNorm1d(SHAPE[1]), "torch": nn.BatchNorm1d(SHAPE[1])}
    yield "forward", timed({name: _forward(layer, x) for name, layer in both.items()}, CALLS, effort)
    yield "step", timed({name: _step(layer, x, g) for name, layer in both.items()}, CALLS, effort)


def _forward(layer: nn.Module, x: Tensor) -> Body:
    return lambda: layer(x)


def _step(layer: nn.Module, x: Tensor, g: Tensor) -> Body:
    leaves = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), leaves, g)


class Training:
    """A network, its batch, and a step of SGD."""

    def __init__(self, network: nn.Module, x: Tensor, classes: int) -> None:
        self.network, self.x = network, x
        self.target = torch.arange(len(x)) % classes
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(self) -> float:
        """The loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        out: Any = self.network(self.x)
        logits = out if isinstance(out, Tensor) else out.logits
        loss = F.cross_entropy(logits.flatten(1), self.target)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def resnet(quick: bool) -> tuple[nn.Module, Tensor]:
    """Like ResNet-18, from transformers, on 8 images of 112 × 112."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16 if quick else 64, hidden_sizes=[16] * 4 if quick else [64, 128, 256, 512],
        depths=[2, 2, 2, 2], layer_type="basic", num_labels=10,
    )  # fmt: skip
    side = 32 if quick else 112
    return ResNetForImageClassification(config), torch.randn(8, 3, side, side)


def mlp(quick: bool) -> tuple[nn.Module, Tensor]:
    """Three layers of 512 on a batch of 256."""
    width = 32 if quick else 512
    layers: list[nn.Module] = []
    for before in (784, width, width):
        layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(256, 784)


def small_cnn(quick: bool) -> tuple[nn.Module, Tensor]:
    """Six convolutions on a batch of 4: calls count for as much as work."""
    layers: list[nn.Module] = []
    widths = [3, 32, 32, 64, 64, 128, 128]
    for number, (before, width) in enumerate(pairwise(widths)):
        conv = nn.Conv2d(before, width, 3, 2 if number in (2, 4) else 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    side = 8 if quick else 32
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return net, torch.randn(4, 3, side, side)


def conv_stack(norm: Callable[[int], nn.Module], quick: bool) -> tuple[nn.Module, Tensor]:
    """Convolution, batch norm and ReLU four times, 64 channels on 16 images of 28 × 28."""
    width = 8 if quick else 64
    layers: list[nn.Module] = []
    for before in (3, width, width, width):
        layers += [nn.Conv2d(before, width, 3, 1, 1, bias=False), norm(width)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return net, torch.randn(16, 3, 28, 28)


def critic(quick: bool) -> tuple[nn.Module, Tensor]:
    """As CrossQ's: observations and actions of a walker, two wide layers with norms before each."""
    width = 32 if quick else 1024
    layers: list[nn.Module] = [nn.BatchNorm1d(23)]
    for before in (23, width):
        layers += [nn.Linear(before, width), nn.ReLU(), nn.BatchNorm1d(width)]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(256, 23)


def tabular(quick: bool) -> tuple[nn.Module, Tensor]:
    """Rows of 30 features, three layers of 128, a batch of 512."""
    width = 16 if quick else 128
    layers: list[nn.Module] = [nn.BatchNorm1d(30)]
    for before in (30, width, width):
        layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.0)]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(512, 30)


def resnet_channels_last(quick: bool) -> tuple[nn.Module, Tensor]:
    """The ResNet, with weights and images in channels last."""
    network, x = resnet(quick)
    return network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]


SMALL = ("MLP, batch 256", "CNN, batch 4", "CrossQ critic, batch 256", "tabular MLP, batch 512")
"""Networks whose layers are small, so that calls count."""
STACK = "conv+BN+ReLU ×4"
NETWORKS = {
    "ResNet-18 (transformers)": resnet,
    "ResNet-18, channels last": resnet_channels_last,
    "MLP, batch 256": mlp,
    "CNN, batch 4": small_cnn,
    "CrossQ critic, batch 256": critic,
    "tabular MLP, batch 512": tabular,
}
NAMES = (*NETWORKS, STACK)


def trainings(name: str, quick: bool, only: str | None = None) -> dict[str, Training]:
    """The same network with torch's norms, with ours, and without norms; of the stack also with ReLU fused.

    `only` makes one of "ours" and "torch": what the other holds would count as its memory.
    """
    if name != STACK:
        torch.manual_seed(0)
        network, x = NETWORKS[name](quick)
        both = {}
        if only != "torch":
            changed = copy.deepcopy(network) if only is None else network
            convert(changed, "batch").apply()
            both["ours"] = Training(changed, x, 10)
        if only != "ours":
            both["torch"] = Training(network, x, 10)
        if only is None:
            both["no norm"] = Training(_without_norms(network), x, 10)
        if only is None and x.ndim == 4:  # the layout is free to choose
            last = x.is_contiguous(memory_format=torch.channels_last)
            there, key = (
                (torch.contiguous_format, "torch NCHW") if last else (torch.channels_last, "torch NHWC")
            )
            other = copy.deepcopy(network).to(memory_format=there)  # type: ignore[call-overload]
            both[key] = Training(other, x.contiguous(memory_format=there), 10)
        return both
    norms: dict[str, Callable[[int], nn.Module]] = {
        "ours": lambda width: nn.Sequential(BatchNorm2d(width), nn.ReLU()),
        "torch": lambda width: nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()),
        "ours, fused": BatchNormAct2d,
        "no norm": lambda width: nn.ReLU(),
    }
    found = {}
    for candidate, norm in norms.items():
        torch.manual_seed(0)
        found[candidate] = Training(*conv_stack(norm, quick), 10)
    return found


def _without_norms(network: nn.Module) -> nn.Module:
    """A copy in which norms pass on what they are given: what the fastest norm could not be faster than."""
    bare = copy.deepcopy(network)
    for name, module in list(bare.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            bare.set_submodule(name, nn.Identity())
    return bare


def network_times(name: str, effort: Effort, quick: bool) -> Times:
    """Seconds of a training step, if ours computes the loss that torch's does.

    Raises:
        RuntimeError: it does not.
    """
    both = trainings(name, quick)
    losses = {candidate: training.step() for candidate, training in both.items() if candidate != "no norm"}
    if any(not abs(loss - losses["torch"]) <= 1e-4 * max(1.0, losses["torch"]) for loss in losses.values()):
        raise RuntimeError(f"wrong, not timed: the losses of a step differ: {losses}")
    calls = 1 if name.startswith("ResNet") else 5
    return timed({candidate: training.step for candidate, training in both.items()}, calls, effort)


def peak_memory(quick: bool) -> dict[str, tuple[int, int]]:
    """Bytes of tensors at most alive in a training step of conv–BN–ReLU–conv, and of those when its backward begins.

    Counted from the allocations that torch's profiler sees, beyond what was there before the step; so they do not
    depend on the machine.
    """
    norms: dict[str, Callable[[int], nn.Module]] = {
        "ours, fused": BatchNormAct2d,
        "ours": lambda width: nn.Sequential(BatchNorm2d(width), nn.ReLU()),
        "torch": lambda width: nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()),
        "torch, ReLU in place": lambda width: nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
    }
    width, side = (8, 16) if quick else (64, 56)
    x = torch.randn(16, width, side, side)
    found = {}
    for name, norm in norms.items():
        net = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), norm(width), nn.Conv2d(width, width, 3, 1, 1))
        net(x).mean().backward()  # compiles, and makes what stays
        for parameter in net.parameters():
            parameter.grad = None
        found[name] = _allocated(net, x)
    return found


def _allocated(net: nn.Module, x: Tensor) -> tuple[int, int]:
    with torch.profiler.profile(profile_memory=True) as profile:
        loss = net(x).mean()
        with torch.profiler.record_function("backward begins"):
            pass
        loss.backward()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    events = sorted(results.events(), key=lambda event: event.start_ns())
    alive = most = kept = 0
    for event in events:
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
        elif event.name() == "backward begins":
            kept = alive
    return most, kept
