"""The figures to reach, worked out of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from benchmarks.cases import F32, Case, Suite
from benchmarks.measure import Key, Measured, Times, best_peer
from benchmarks.networks import NAMES, SMALL
from benchmarks.protocol import Ratio, ratio, spread

NOT = "not measured"


class Figure(NamedTuple):
    """A ratio and the row it stands on; None if it was not measured."""

    row: str
    value: Ratio | None


class Goal(NamedTuple):
    """What is asked of every row, or of their geometric mean."""

    name: str
    bound: float
    at_most: bool
    figures: list[Figure]
    mean: bool = False

    @property
    def sign(self) -> str:
        """The bound, in signs."""
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    @property
    def measured(self) -> list[tuple[str, Ratio]]:
        """The rows that have a value, the worst first."""
        found = [(figure.row, figure.value) for figure in self.figures if figure.value is not None]
        return sorted(found, key=lambda pair: pair[1].median, reverse=self.at_most)

    @property
    def geometric(self) -> Ratio | None:
        """The geometric mean of the rows: that of their medians, between those of their quartiles."""
        found = [value for _, value in self.measured]
        if not found:
            return None
        parts = ([getattr(value, part) for value in found] for part in ("median", "low", "high"))
        return Ratio(*(statistics.geometric_mean(part) for part in parts), rounds=found[0].rounds)

    @property
    def judged(self) -> Ratio | None:
        """What is held against the bound: the mean, or the worst row."""
        return self.geometric if self.mean else self.measured[0][1] if self.measured else None

    @property
    def verdict(self) -> str:
        """Met by the median; rows without a value leave it open, unless another one already fails."""
        if self.judged is None:
            return NOT
        met = self.judged.median <= self.bound if self.at_most else self.judged.median >= self.bound
        if not met:
            return "not met"
        missing = sum(figure.value is None for figure in self.figures)
        return f"open: {missing} of {len(self.figures)} rows {NOT}" if missing else "met"


def goals(measured: Measured, suite: Suite) -> list[Goal]:
    """What we set out to reach."""

    def over(
        cases: Iterable[Case], regime: str, parts: tuple[str, ...], above: str, below: str
    ) -> list[Figure]:
        return [_figure(measured, case, regime, part, above, below) for case in cases for part in parts]

    images = [case for case in suite.reused if case.large and case.op == "bn" and len(case.shape) == 4]
    planes = [case for case in images if not case.channels_last]
    last = [case for case in images if case.channels_last]
    step = ("step",)
    found = []
    for name, cases, part, copied, torchs in (
        ("training forward, NCHW ≥ 100 MB, reused output", planes, "forward", 0.8, 5),
        ("backward, NCHW ≥ 100 MB, reused output", planes, "backward", 1.5, 3),
        ("channels_last forward ≥ 100 MB, reused output", last, "forward", 1.25, 2.5),
        ("channels_last backward ≥ 100 MB, reused output", last, "backward", 2, 2.5),
    ):
        found += [
            Goal(f"{name}: ours / `copy_`", copied, True, over(cases, "reused", (part,), "ours", "copy")),
            Goal(f"{name}: torch / ours", torchs, False, over(cases, "reused", (part,), "torch", "ours")),
        ]
    found += [
        Goal(f"{op}, forward + backward: {peer} / ours", bound, False,
             over([case for case in suite.fused if case.op == op.lower()], "fresh", step, key, "ours"))
        for op in ("BN+ReLU", "BN+add+ReLU")
        for peer, key, bound in (("torch's separate ops", "torch", 4), ("Inductor", "Inductor", 3))
    ]  # fmt: skip
    found += [
        Goal("renorm, forward + backward: ours / our BN", 1.05, True,
             over(suite.renorm, "fresh", step, "ours", "our BN")),
        Goal("renorm, forward + backward: composed form / ours", 5, False,
             over(suite.renorm, "fresh", step, "composed", "ours")),
        Goal("masked, forward + backward: ours / unmasked", 1.2, True,
             over(suite.masked, "fresh", step, "ours", "unmasked")),
        Goal("bf16 and fp16, forward + backward: torch / ours", 2, False,
             over(suite.halves, "fresh", step, "torch", "ours")),
        Goal("60×100, forward + backward, per call: ours / torch", 0.8, True,
             [Figure(f"{number} threads", _ratio(measured.calls.get((number, "step")), "ours", "torch"))
              for number in (1, 2)]),
        Goal("1 to 3.3 million elements, fp32, forward + backward: torch / ours", 2, False,
             over([case for case in suite.plain if 1e6 <= prod(case.shape) <= 3.3e6],
                  "fresh", step, "torch", "ours")),
        Goal("networks of small layers, training step: torch / ours", 1.05, False,
             [Figure(name, _ratio(measured.networks.get(name), "torch", "ours")) for name in SMALL]),
        Goal("any row: torch / ours", 1, False, every_row(measured, suite)),
        Goal("any row: best peer / ours", 1, False, every_row(measured, suite, against_best=True)),
        Goal("geometric mean over the protocol's shapes, fp32, forward + backward: best peer / ours", 2, False,
             [Figure(_row(key), _ratio_to_best(measured.times.get(key)))
              for key in (Key(case, "fresh", measured.threads, "step") for case in suite.plain)], mean=True),
        Goal("geometric mean over the protocol's shapes, fp32, forward + backward: torch / ours", 2.2, False,
             over(suite.plain, "fresh", step, "torch", "ours"), mean=True),
        Goal("output's error against float64, mean 1e4, std 1, fp32", 1e-5, True, _errors(measured, suite)),
        Goal("`import normsmith` / `import torch`", 1.1, True,
             [Figure("import", _ratio(measured.processes.get("import"), "ours", "torch"))]),
        Goal("first training step of a ResNet, no kernel cached: seconds more than torch", 3, True,
             [Figure("first step", _difference(measured.processes.get("first step")))]),
    ]  # fmt: skip
    return found


def every_row(measured: Measured, suite: Suite, against_best: bool = False) -> list[Figure]:
    """Wherever torch stands beside us: kernels, calls of layers, networks; what was to be measured and was not, too.

    Against torch in the same layout, or against the best of all who compute the same.
    """

    def quotient(times: Times | None) -> Ratio | None:
        return _ratio_to_best(times) if against_best else _ratio(times, "torch", "ours")

    figures = [
        Figure(_row(key), quotient(times)) for key, times in measured.times.items() if "torch" in times
    ]
    wanted = [
        *(
            Key(case, "fresh", measured.threads, "step")
            for case in (*suite.plain, *suite.halves, *suite.fused)
        ),
        *(Key(case, "fresh", 1, "step") for case in suite.serial),
        *(Key(case, "cold", measured.threads, "step") for case in suite.cold),
        *(Key(case, "reused", measured.threads, "backward") for case in suite.reused if case.op == "bn"),
    ]
    figures += [Figure(_row(key), None) for key in wanted if key not in measured.times]
    figures += [
        Figure(f"60×100 layer, {part}, {number} threads",
               quotient(measured.calls.get((number, part))))
        for number in (1, 2) for part in ("forward", "step")
    ]  # fmt: skip
    return figures + [Figure(name, quotient(measured.networks.get(name))) for name in NAMES]


def losing(measured: Measured, suite: Suite) -> list[Figure]:
    """The rows in which the best peer is faster, the worst first."""
    rows = every_row(measured, suite, against_best=True)
    lost = [row for row in rows if row.value is not None and row.value.median < 1]
    return sorted(lost, key=lambda row: row.value.median if row.value else 0.0)


def _ratio_to_best(times: Times | None) -> Ratio | None:
    best = None if times is None else best_peer(times)
    return None if best is None else _ratio(times, best, "ours")


def _row(key: Key) -> str:
    return f"{key.case}, {key.regime} {key.part}, {key.threads} threads"


def _figure(measured: Measured, case: Case, regime: str, part: str, above: str, below: str) -> Figure:
    key = Key(case, regime, measured.threads, part)
    return Figure(_row(key), _ratio(measured.times.get(key), above, below))


def _ratio(times: Times | None, above: str, below: str) -> Ratio | None:
    return (
        None
        if times is None or above not in times or below not in times
        else ratio(times[above], times[below])
    )


def _difference(times: Times | None) -> Ratio | None:
    if times is None:
        return None
    return spread([ours - torchs for ours, torchs in zip(times["ours"], times["torch"], strict=True)])


def _errors(measured: Measured, suite: Suite) -> list[Figure]:
    figures = []
    for case in (*suite.plain, *suite.fused, *suite.renorm, *suite.masked):
        assert case.dtype == F32  # others round their output
        errors = measured.errors.get(case)
        torchs = (
            ""
            if errors is None or "torch" not in errors[1e4]
            else f" (torch {errors[1e4]['torch']['y']:.1e})"
        )
        figures.append(
            Figure(f"{case}{torchs}", None if errors is None else spread([errors[1e4]["ours"]["y"]]))
        )
    return figures
