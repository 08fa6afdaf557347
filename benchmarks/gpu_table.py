"""The figures to reach on a GPU, worked out of what was measured, and the page on which they stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks.gpu_rows import BF16, F32, Row, fused_rows, plain_rows, renorm_rows

LARGE, ONE_MB = 100 * 10**6, 2**20
NOT = "not measured"

TRIPS = {"bn": (3, 5), "bn+relu": (3, 5), "bn+add+relu": (4, 7), "renorm": (3, 5)}
"""Times that a batch too large for the cache passes through memory: forward, backward."""


@dataclass
class Measured:
    """Everything that a run found out; empty fields are shown as not measured."""

    device: str = NOT
    contract: str = NOT
    wrong: list[str] = field(default_factory=list)
    times: dict[Row, dict[str, dict[str, float]]] = field(default_factory=dict)
    copies: dict[Row, float] = field(default_factory=dict)
    failed: dict[Row, str] = field(default_factory=dict)
    network: dict[str, float] = field(default_factory=dict)
    host: dict[str, dict[str, float]] = field(default_factory=dict)

    def ratio(self, row: Row, direction: str, peers: Iterable[str] | None = None) -> float | None:
        """Time of the best peer over ours."""
        times = self.times.get(row, {}).get(direction)
        if not times:
            return None
        others = [time for name, time in times.items() if name != "ours" and (peers is None or name in peers)]
        return min(others) / times["ours"] if others else None

    def share(self, row: Row, direction: str) -> float | None:
        """Of the bandwidth of a copy, by the byte model."""
        times = self.times.get(row, {}).get(direction)
        if not times or row not in self.copies:
            return None
        return TRIPS[row.op][direction == "backward"] * row.bytes / times["ours"] / self.copies[row]


@dataclass(frozen=True)
class Goal:
    """A figure, what it must reach, and how it follows from what was measured."""

    name: str
    least: float
    figure: Callable[[Measured], float | None]
    at_most: bool = False

    def line(self, measured: Measured) -> str:
        """Its row of the table."""
        found = self.figure(measured)
        goal = f"{'≤' if self.at_most else '≥'} {self.least:g}"
        if found is None:
            return f"| {self.name} | {goal} | {NOT} | |"
        met = found <= self.least if self.at_most else found >= self.least
        return f"| {self.name} | {goal} | {found:.3f} | {'met' if met else 'not met'} |"


def _worst(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return min(found) if found else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Geometric."""
    found = [math.log(value) for value in values if value is not None]
    return math.exp(sum(found) / len(found)) if found else None


def _shares(direction: str) -> Callable[[Measured], float | None]:
    rows = [row for row in plain_rows() if row.bytes >= LARGE]
    return lambda measured: _worst(measured.share(row, direction) for row in rows)


def _over(
    together: Callable[[Iterable[float | None]], float | None],
    rows: list[Row],
    directions: tuple[str, ...],
    peers: tuple[str, ...],
) -> Callable[[Measured], float | None]:
    return lambda measured: together(
        measured.ratio(row, direction, peers) for row in rows for direction in directions
    )


def _inverse(figure: Callable[[Measured], float | None]) -> Callable[[Measured], float | None]:
    def inverse(measured: Measured) -> float | None:
        found = figure(measured)
        return None if found is None else 1 / found

    return inverse


def goals() -> list[Goal]:
    """What we set out to reach."""
    plain, torchs, both = plain_rows(), ("cuDNN", "native"), ("forward", "backward")
    fused = fused_rows()
    ways = ("forward", "step")
    return [
        Goal("forward, ≥ 100 MB: share of copy bandwidth, worst row", 0.85, _shares("forward")),
        Goal("backward, ≥ 100 MB: share of copy bandwidth, worst row", 0.80, _shares("backward")),
        Goal("best of cuDNN and native / ours, fp32, geometric mean", 1.3,
             _over(_mean, [row for row in plain if row.dtype == F32], both, torchs)),
        Goal("best of cuDNN and native / ours, bf16, geometric mean", 2.0,
             _over(_mean, [row for row in plain if row.dtype == BF16], both, torchs)),
        Goal("Inductor / ours, BN+ReLU, geometric mean", 1.1,
             _over(_mean, [row for row in fused if row.op == "bn+relu"], ways, ("Inductor",))),
        Goal("Inductor / ours, BN+add+ReLU, geometric mean", 1.1,
             _over(_mean, [row for row in fused if row.op == "bn+add+relu"], ways, ("Inductor",))),
        Goal("renorm / our BN, worst row", 1.05, _inverse(_over(_worst, renorm_rows(), ways, ("our BN",))), True),
        Goal("composed renorm / ours, geometric mean", 4.0, _over(_mean, renorm_rows(), ways, ("composed",))),
        Goal("torch / ours, rows ≥ 1 MB, worst row", 1.0,
             _over(_worst, [row for row in plain if row.bytes >= ONE_MB], both, torchs)),
        Goal("ours / torch, rows < 1 MB, worst row", 1.1,
             _inverse(_over(_worst, [row for row in plain if row.bytes < ONE_MB], both, torchs)), True),
        Goal("torch / ours, training step of a ResNet-50, bf16, channels last", 1.05,
             lambda measured: measured.network["torch"] / measured.network["ours"] if measured.network else None),
        Goal("torch / ours, host time of a call of a small layer, worst row", 1.0,
             lambda measured: _worst(times["torch"] / times["ours"] for times in measured.host.values())),
    ]  # fmt: skip


def page(measured: Measured) -> str:
    """The whole result, in Markdown."""
    lines = [
        "# Batch norm on a GPU",
        "",
        f"Device: {measured.device}. Contract on it: {measured.contract}. Rows verified against float64 at means 0, "
        f"1e2 and 1e4, and timed: {len(measured.times)}; findings: {len(measured.wrong)}.",
        "",
        "| figure | goal | measured | |",
        "|---|---|---|---|",
        *(goal.line(measured) for goal in goals()),
        "",
        *(f"- wrong, not timed: {finding}" for finding in measured.wrong),
        *(f"- failed: {row}: {reason}" for row, reason in measured.failed.items()),
        "",
        "Microseconds of a call, by replay of CUDA graphs, back to back on the same buffers; the median of 15 rounds "
        "in alternating order. Peer: the best of those on the row. Share: of the bandwidth of a copy of the same "
        f"batch, by {TRIPS['bn'][0]} passes of the batch forward and {TRIPS['bn'][1]} backward.",
        "",
        "| row | direction | ours, µs | peers, µs | peer / ours | share |",
        "|---|---|---|---|---|---|",
        *(line for row in (*plain_rows(), *fused_rows(), *renorm_rows()) for line in _lines(row, measured)),
        "",
        "Host time of a call, in microseconds: what the processor spends before the device may start (eager, fp32).",
        "",
        "| call | ours | torch | torch / ours |",
        "|---|---|---|---|",
        *(f"| {call} | {times['ours']:.1f} | {times['torch']:.1f} | {times['torch'] / times['ours']:.2f} |"
          for call, times in measured.host.items()),
        *([] if measured.host else [f"| | {NOT} | | |"]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _lines(row: Row, measured: Measured) -> list[str]:
    directions = measured.times.get(row, {})
    if not directions:
        return [f"| {row} | | {NOT} | | | |"]
    lines = []
    for direction, times in directions.items():
        peers = ", ".join(f"{name} {time:.1f}" for name, time in times.items() if name != "ours")
        ratio, share = measured.ratio(row, direction), measured.share(row, direction)
        lines.append(
            f"| {row} | {direction} | {times['ours']:.1f} | {peers} | {ratio:.2f} | "
            f"{'' if share is None or direction == 'step' else f'{share:.2f}'} |"
        )
    return lines
