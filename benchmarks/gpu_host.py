"""What a call of a small layer costs the processor that starts the kernels: launches dominate there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from normsmith.layers import BatchNorm1d

SHAPES = [(60, 100), (256, 512)]
PARTS = ("step", "training forward", "evaluation")
ROUNDS, CALLS = 15, 100


def host_microseconds() -> dict[str, dict[str, float]]:
    """Of a call of a layer in plain PyTorch, without graphs: torch's layer and ours, the median of alternating rounds.

    The queue of the device never fills: what is timed is Python, the dispatch and the launches.
    """
    found = {}
    for shape in SHAPES:
        for part in PARTS:
            bodies = {"ours": body(BatchNorm1d, shape, part), "torch": body(nn.BatchNorm1d, shape, part)}
            found[f"{'×'.join(map(str, shape))}, {part}"] = alternating(bodies)
    return found


def body(
    layer: type[nn.Module], shape: tuple[int, int], part: str, device: str = "cuda"
) -> Callable[[], None]:
    """One call of the layer on a batch of that shape, in that part of a user's loop."""
    norm = layer(shape[1]).to(device).train(part != "evaluation")
    x = torch.randn(shape, device=device, requires_grad=part == "step")
    g = torch.randn(shape, device=device)

    def call() -> None:
        if part == "step":
            norm(x).backward(g)
        else:
            with torch.no_grad():
                norm(x)

    return call


def alternating(
    bodies: dict[str, Callable[[], None]], synchronize: Callable[[], None] | None = None
) -> dict[str, float]:
    """Microseconds of a call of each: every round begins with an idle device."""
    synchronize = synchronize or torch.cuda.synchronize
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for call in bodies.values():
        for _ in range(10):
            call()
    for round_ in range(ROUNDS):
        for name in bodies if round_ % 2 == 0 else reversed(bodies):
            synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                bodies[name]()
            times[name].append((time.perf_counter() - start) * 1e6 / CALLS)
    synchronize()
    return {name: statistics.median(found) for name, found in times.items()}
