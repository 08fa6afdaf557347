"""Kernels: each case is verified, and if it is right, timed beside its peers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

import torch

from benchmarks.cases import Case, Inputs, inputs
from benchmarks.peers import (
    Body,
    Forward,
    Kernels,
    Native,
    candidates,
    copies,
    in_other_layout,
    inductor,
    keep_pages,
    ours,
)
from benchmarks.protocol import interleave, spread
from benchmarks.verify import ALLOWED, MEANS, Errors, errors, threads, wrong

_COLD_BYTES, _COLD_SETS = 2**26, (4, 128)
"""Bytes of the buffers that are rotated, twice the last cache of most machines, and limits to their number."""


class Effort(NamedTuple):
    """How long candidates take turns: see `interleave`.

    A machine shared with others is slow for tenths of a second at a time: rows of short calls must last longer.
    """

    rounds: int = 15
    seconds: float = 0.5
    slow: float = 0.4


QUICK = Effort(3, 0.0)


class Key(NamedTuple):
    """What was timed. Regimes: "fresh" (outputs newly allocated), "reused", "cold" (fresh, buffers rotated)."""

    case: Case
    regime: str
    threads: int
    part: str


Times = dict[str, list[float]]


@dataclass
class Measured:
    """Seconds of every candidate in every round, errors against float64, and what could not be timed."""

    threads: int = field(default_factory=torch.get_num_threads)
    times: dict[Key, Times] = field(default_factory=dict)
    errors: dict[Case, dict[float, dict[str, Errors]]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    calls: dict[tuple[int, str], Times] = field(default_factory=dict)
    networks: dict[str, Times] = field(default_factory=dict)
    processes: dict[str, Times] = field(default_factory=dict)
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    peaks: dict[str, dict[str, float]] = field(default_factory=dict)
    pages_kept: bool = False

    def right(self, case: Case) -> bool:
        """Verify a case, once."""
        if case not in self.errors:
            peers = {name: forward for name, forward in candidates(case).items() if name in ("ours", "torch")}
            self.errors[case] = {mean: errors(case, mean, peers) for mean in MEANS}
            self.wrong += wrong(case, self.errors[case])
        return not wrong(case, self.errors[case])


PEERS = ("torch", "torch NCHW", "torch NHWC", "oneDNN", "Inductor")
"""Who computes what we do; all others are ours, copies, or what a user would not take."""


def best_peer(times: Times) -> str | None:
    """The fastest of those who compute what we do."""
    there = [name for name in PEERS if name in times]
    return min(there, key=lambda name: spread(times[name]).median, default=None)


_STARTED = time.monotonic()


def say(text: str) -> None:
    """Progress, beside the result."""
    print(f"{time.monotonic() - _STARTED:4.0f} s  {text}", file=sys.stderr, flush=True)


Timer = Callable[[Case, Effort], Iterator[tuple[str, Times]]]


def time_case(
    measured: Measured, regime: str, case: Case, timer: Timer, effort: Effort, on_threads: int | None = None
) -> None:
    """Verify a case, and time it if it is right."""
    number = on_threads or torch.get_num_threads()
    if measured.right(case):
        with threads(number):
            for part, times in timer(case, effort):
                measured.times[Key(case, regime, number, part)] = times


def first_line(error: Exception) -> str:
    """Of a message, as much as fits a table."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def fresh(case: Case, effort: Effort) -> Iterator[tuple[str, Times]]:
    """Through the public op into new memory: "step", a forward and its backward; of small batches "forward", too.

    A fresh forward of a large batch is mostly page faults; `reused` shows what its kernel takes.
    """
    runners, calls = _with_inputs(case, candidates(case)), calls_of(case)
    yield "step", timed({name: _step(*run) for name, run in runners.items()}, calls, effort)
    if case.op == "bn" and not case.large:
        yield "forward", timed({name: _forward(*run) for name, run in runners.items()}, calls, effort)


def _with_inputs(case: Case, runners: dict[str, Forward]) -> dict[str, tuple[Forward, Inputs]]:
    """Each candidate with its batch: the same for all but torch in the other memory layout."""
    i = inputs(case)
    return {name: (run, i) for name, run in runners.items()} | in_other_layout(case, i)


def compiled(measured: Measured) -> Timer:
    """`fresh`, with Inductor beside it; its compilation is not timed."""

    def timer(case: Case, effort: Effort) -> Iterator[tuple[str, Times]]:
        i, runners = inputs(case), candidates(case)
        try:
            runners["Inductor"] = inductor(i)
        except RuntimeError as error:
            measured.failed[f"Inductor: {case}"] = first_line(error)
        bodies = {name: _step(*run) for name, run in _with_inputs(case, runners).items()}
        yield "step", timed(bodies, calls_of(case), effort)

    return timer


def _forward(forward: Forward, i: Inputs) -> Body:
    return lambda: forward(i)


def _step(forward: Forward, i: Inputs) -> Body:
    return lambda: torch.autograd.grad(forward(i), i.leaves, i.g)


def cold(case: Case, effort: Effort) -> Iterator[tuple[str, Times]]:
    """As `fresh`, over so many batches in turn that none is in a cache when its turn comes."""
    fewest, most = _COLD_SETS
    sets = [inputs(case) for _ in range(max(fewest, min(most, _COLD_BYTES // case.bytes)))]
    bodies: dict[str, dict[str, Body]] = {"forward": {}, "step": {}}
    for name, forward in candidates(case).items():
        for part, make in (("forward", _forward), ("step", _step)):
            turns = cycle([make(forward, i) for i in sets])
            bodies[part][name] = lambda turns=turns: next(turns)()
    for part, both in bodies.items():
        yield part, timed(both, len(sets), effort)


def reused(measured: Measured, case: Case, effort: Effort) -> Iterator[tuple[str, Times]]:
    """Kernels into buffers that are there already, beside copies of the same bytes: "forward" and "backward".

    Pages stay with the process from then on, for torch's backward, which cannot be given buffers.
    """
    measured.pages_kept = keep_pages()
    i = inputs(case)
    kernels = Kernels(case, i)
    _check_kernels(case, kernels)
    forward: dict[str, Body] = {**copies(i.x.detach()), "ours": kernels.forward}
    backward: dict[str, Body] = {**copies(i.x.detach()), "ours": kernels.backward}
    if case.op == "bn":
        native = Native(i)
        forward["torch"], backward["torch"] = native.forward, native.backward
    yield "forward", timed(forward, calls_of(case), effort)
    yield "backward", timed(backward, calls_of(case), effort)


def _check_kernels(case: Case, kernels: Kernels) -> None:
    """The buffers must hold what the verified op returns."""
    i = inputs(case)
    kernels.running.mean.copy_(i.mean)
    kernels.running.var.copy_(i.var)
    kernels.forward()
    kernels.backward()
    y = ours(case)(i)
    (dx,) = torch.autograd.grad(y, [i.x], i.g)
    for name, got, want in (("y", kernels.y, y.detach()), ("dx", kernels.dx, dx)):
        allowed = ALLOWED[case.dtype] * max(1.0, want.abs().max().item())
        if not (got - want).abs().max().item() <= allowed:
            raise RuntimeError(f"wrong, not timed: {name} in a reused buffer is not what the op returns")


def calls_of(case: Case) -> int:
    """Calls in a sample: more of short ones, so that the clock does not count."""
    return max(1, min(100, 2**22 // case.bytes))


def timed(bodies: dict[str, Body], calls: int, effort: Effort) -> Times:
    """Seconds of a call of each candidate in each round."""

    def repeated(body: Body) -> Body:
        def run() -> None:
            for _ in range(calls):
                body()

        return run

    found = interleave({name: repeated(body) for name, body in bodies.items()}, *effort)
    return {name: [seconds / calls for seconds in times] for name, times in found.items()}
