"""A network like ResNet-50, with torch's norms or ours: what a training step costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normsmith.layers import BatchNorm2d, BatchNormAct2d

BATCH, ROUNDS, STEPS = 128, 7, 3


class TorchNorm(nn.BatchNorm2d):
    """torch's batch norm, sum and ReLU, as networks write them."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """ReLU follows; the residual is added before it."""
        y = super().forward(x)
        return F.relu(y if residual is None else y + residual, inplace=True)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1, and the way around them."""

    def __init__(
        self, planes_in: int, planes: int, stride: int, act: type[nn.Module], norm: type[nn.Module]
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(planes_in, planes, 1, bias=False)
        self.space = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.expand = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.first, self.second, self.last = act(planes), act(planes), act(4 * planes)
        self.around: nn.Module = nn.Identity()
        if stride > 1 or planes_in != 4 * planes:
            self.around = nn.Sequential(
                nn.Conv2d(planes_in, 4 * planes, 1, stride, bias=False), norm(4 * planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, planes_in, height, width)."""
        y = self.second(self.space(self.first(self.reduce(x))))
        return self.last(self.expand(y), residual=self.around(x))


def resnet50(act: type[nn.Module], norm: type[nn.Module]) -> nn.Sequential:
    """53 norms in four stages."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), act(64), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, (planes, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            layers.append(Bottleneck(width, planes, 2 if stage and not block else 1, act, norm))
            width = 4 * planes
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


def stepper(act: type[nn.Module], norm: type[nn.Module]) -> Callable[[], None]:
    """One step of SGD in bf16, channels last."""
    torch.manual_seed(0)
    network = resnet50(act, norm).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(BATCH, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    target = torch.randint(1000, (BATCH,), device="cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = F.cross_entropy(network(x), target)
        loss.backward()
        optimizer.step()

    return step


def milliseconds() -> dict[str, float]:
    """Of a step, as a user runs it: eagerly, without graphs. The median of alternating rounds."""
    steps = {"ours": stepper(BatchNormAct2d, BatchNorm2d), "torch": stepper(TorchNorm, nn.BatchNorm2d)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(STEPS):
            step()
    for round_ in range(ROUNDS):
        for name in steps if round_ % 2 == 0 else reversed(steps):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(STEPS):
                steps[name]()
            stop.record()
            stop.synchronize()
            times[name].append(start.elapsed_time(stop) / STEPS)
    return {name: statistics.median(found) for name, found in times.items()}
