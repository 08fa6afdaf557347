"""How things are timed here: interleaved, in alternating order, as ratios of the same round.

Machines are noisy; a ratio within a round is steadier than any two medians. A sample during which the process
was switched out is measured again.
"""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results")
RETRIES = 5


@dataclass(frozen=True)
class Ratio:
    """The quotient of two candidates over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def sample(body: Callable[[], object], tolerated: int = 0) -> float:
    """Seconds of one call, measured again while it was interrupted more often than is tolerated."""
    best = float("inf")
    for _ in range(RETRIES):
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        started = time.perf_counter()
        body()
        best = min(best, time.perf_counter() - started)
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches <= tolerated:
            break
    return best


def interleave(candidates: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after one call of each that does not count."""
    for body in candidates.values():
        body()
    names = list(candidates)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        for name in names if round_ % 2 == 0 else reversed(names):
            times[name].append(sample(candidates[name]))
    return times


def ratio(above: list[float], below: list[float]) -> Ratio:
    """The median of the per-round quotients, with its quartiles."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def spread(values: list[float]) -> Ratio:
    """The median of values, with their quartiles; a single value is all three."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return Ratio(middle, low, high, len(values))


def machine() -> str:
    """What the figures were measured on."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.processor(),
    )
    return (
        f"{cpu}, {torch.get_num_threads()} torch threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}; {time.strftime('%Y-%m-%d')}"
    )


def write(name: str, title: str, table: str) -> None:
    """Print a result and keep it in `results/`, replacing the last one."""
    text = f"# {title}\n\n{machine()}\n\n{table}\n"
    print(text)
    (RESULTS / f"{name}.md").write_text(text)
