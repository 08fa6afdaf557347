"""What `normsmith check` costs on a ResNet-50 in batches of 8 images at 128 × 128. `python -m benchmarks.check_speed`.

Goals, on two cores: level "fast" in less than 3 s and "standard" in less than 15 s after start-up; its pass over the
data at most 1.3 times plain forwards over the same batches, at most 1.2 times their memory. Weights are random, but the
norms look trained, with statistics of the data: of a new network rules compare nothing.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.protocol import interleave, ratio, spread, write
from normsmith import check
from normsmith.checks import Context
from normsmith.checks.moments import moments_of_calls
from normsmith.checks.rule import Level

BATCHES, ROWS, PIXELS, CLASSES = 16, 8, 128, 10
TRAINED = 2
"""Batches from which the norms have their statistics."""
ROUNDS = 5
MEMORY_ROUNDS = 3
LIMIT = 600
"""Seconds after which a process is given up."""


class ResNet50(nn.Module):
    """Images (N, 3, H, W) to logits (N, 10)."""

    def __init__(self) -> None:
        from transformers import ResNetConfig, ResNetForImageClassification

        super().__init__()
        self.network = ResNetForImageClassification(ResNetConfig(num_labels=CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits


Data = list[tuple[Tensor, Tensor]]


def made() -> tuple[nn.Module, Data]:
    """The network in training mode, and its batches."""
    torch.manual_seed(0)
    data = [(torch.randn(ROWS, 3, PIXELS, PIXELS), torch.randint(CLASSES, (ROWS,))) for _ in range(BATCHES)]
    model = ResNet50().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        norm.momentum = None  # the average of all
    plain(model, data[:TRAINED])
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked = torch.tensor(1000)
    return model, data


def plain(model: nn.Module, data: Data) -> None:
    """Forwards in training mode, and nothing else."""
    with torch.no_grad():
        for images, _ in data:
            model(images)


def one_pass(model: nn.Module, data: Data) -> None:
    """The pass that all rules share, over all of the batches."""
    context = Context(model, data)
    moments_of_calls(model, context.layers, data, context.output)


def checked(model: nn.Module, data: Data, level: Level) -> None:
    """A whole check at a level."""
    check(model, data, loss=F.cross_entropy, level=level)


BODIES: dict[str, Callable[[nn.Module, Data], None]] = {
    "plain": plain,
    "pass": one_pass,
    "fast": partial(checked, level="fast"),
    "standard": partial(checked, level="standard"),
}


def peak(name: str) -> float:
    """MB that a process of its own had in memory at most, running one of the bodies."""
    command = [sys.executable, "-m", "benchmarks.check_speed", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT)
    return float(done.stdout)


def main() -> None:
    """Measure time and memory."""
    # first: a process begins with the peak of the one that started it
    memory = {name: [peak(name) for _ in range(MEMORY_ROUNDS)] for name in BODIES}
    model, data = made()
    times = interleave({name: partial(body, model, data) for name, body in BODIES.items()}, ROUNDS)
    rows = [
        "| what | seconds | against plain forwards | peak memory, MB | against plain forwards |",
        "|---|---|---|---|---|",
    ]
    for name in BODIES:
        quotients = ratio(times[name], times["plain"]), ratio(memory[name], memory["plain"])
        rows.append(
            f"| {name} | {spread(times[name])} | {quotients[0]} | {spread(memory[name]).median:.0f} "
            f"| {quotients[1].median:.2f} |"
        )
    write("check_speed", f"`normsmith check` of a ResNet-50, {BATCHES} batches of {ROWS}", "\n".join(rows))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        BODIES[sys.argv[1]](*made())
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
