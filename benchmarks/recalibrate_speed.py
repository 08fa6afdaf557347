"""Recalibration against a plain forward pass over the same batches. `python -m benchmarks.recalibrate_speed`.

Goal: at most 1.15 times, over 40 batches and more: the sample for the gap is one batch of 40. The plain pass is what
a hand-written update of the statistics runs (training mode, no gradients); one in evaluation mode, which reads each
norm's input once less, is beside it. Freed memory stays with the process (glibc): else where the heap happens to end
decides, by page faults, on a sixth of the time of the wide layers, in one process and not in the next.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain, pairwise

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from benchmarks.peers import keep_pages
from benchmarks.protocol import interleave, ratio, write
from normsmith.surgery import recalibrate

Batches = list[torch.Tensor]
ROUNDS = 5
"""Of passes that take up to a second."""


def plain(model: nn.Module, batches: Batches, training: bool) -> None:
    """Forwards, and nothing else."""
    model.train(training)
    with torch.no_grad():
        for batch in batches:
            model(batch)


def resnet() -> nn.Module:
    """A residual network of 20 norms, which sees 64 × 64 pixels as 16 × 16 and less."""
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(
        ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128], depths=[3, 3, 3], layer_type="basic")
    )


def small() -> nn.Module:
    """Three convolutions of 8 × 8 images."""
    widths = (1, 16, 32, 32)
    parts = [
        (nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in pairwise(widths)
    ]
    return nn.Sequential(*chain.from_iterable(parts))


def wide() -> nn.Module:
    """Three linear layers of 512 units."""
    parts = [(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*chain.from_iterable(parts))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    # why: 3 × 3 convolutions, the usual network with batch norm
    "residual network, 20 norms": (resnet, (16, 3, 64, 64), 40),
    # why: channels last in memory, where torch's own statistics lose digits and are fast
    "the same, channels last": (resnet, (16, 3, 64, 64), 40),
    # why: little work per layer, so that what is done per call shows
    "three small convolutions": (small, (64, 1, 8, 8), 160),
    # why: (N, C) inputs
    "three wide linear layers": (wide, (256, 512), 80),
}


def main() -> None:
    """Measure the fast mode, its gap over a sample included."""
    torch.set_num_threads(1)
    keep_pages()
    rows = [
        "| network | against training mode | against evaluation mode | `update_bn` against training mode | rounds |",
        "|---|---|---|---|---|",
    ]
    for name, (make, shape, number) in CASES.items():
        torch.manual_seed(0)
        model, batches = make(), [torch.randn(shape) for _ in range(number)]
        if "channels last" in name:
            model = model.to(memory_format=torch.channels_last)
            batches = [batch.to(memory_format=torch.channels_last) for batch in batches]
        candidates: dict[str, Callable[[], object]] = {
            "recalibrate": partial(recalibrate, model, batches),
            "training": partial(plain, model, batches, True),
            "evaluation": partial(plain, model, batches, False),
            "update_bn": partial(update_bn, batches, model),
        }
        times = interleave(candidates, ROUNDS)
        against = [ratio(times["recalibrate"], times[mode]) for mode in ("training", "evaluation")]
        peer = ratio(times["update_bn"], times["training"])
        rows.append(f"| {name} | {against[0]} | {against[1]} | {peer} | {peer.rounds} |")
    write(
        "recalibrate_speed",
        "A fast recalibration, in plain forward passes over the same batches",
        "\n".join(rows),
    )


if __name__ == "__main__":
    main()
