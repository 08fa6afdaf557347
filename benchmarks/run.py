"""The CPU's benchmark: `python -m benchmarks.run` measures for some seven minutes and writes `results/cpu.md`.

What no time was left for stands there as not measured; an interrupted run keeps what it has. `--rows PATTERN` measures
the rows whose names match, as `--rows 'fresh: (bn.)?relu'`, `--list` tells the names, and `--quick` runs all of it on
tiny batches and one thread, to see whether it works; none of them writes anything unless told where.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import networks, processes
from benchmarks.cases import Case, Suite, suite
from benchmarks.goals import losing
from benchmarks.measure import (
    QUICK,
    Effort,
    Measured,
    Timer,
    cold,
    compiled,
    first_line,
    fresh,
    reused,
    say,
    time_case,
)
from benchmarks.page import page
from benchmarks.picture import draw
from benchmarks.protocol import RESULTS
from benchmarks.verify import threads

LIMIT = 540
"""Seconds after which nothing new is started."""


class Task(NamedTuple):
    """A part of the run: a case in a regime, a network, what new processes take."""

    name: str
    work: Callable[[], None]


def tasks(measured: Measured, cases: Suite, quick: bool) -> list[Task]:
    """What single figures are judged by comes first; regimes that keep pages come last, since nothing undoes it."""
    effort = QUICK if quick else Effort()

    def rows(regime: str, timer: Timer, *groups: list[Case], on_threads: int | None = None) -> list[Task]:
        name = regime if on_threads is None else f"{regime}, {on_threads} threads"
        return [
            Task(f"{name}: {case}", partial(time_case, measured, regime, case, timer, effort, on_threads))
            for group in groups
            for case in group
        ]

    return [
        *rows("fresh", compiled(measured), cases.fused),
        *rows("fresh", fresh, cases.renorm, cases.masked, cases.halves),
        *(Task(f"layer, {number} threads", partial(_layer, measured, number, effort)) for number in (1, 2)),
        *(Task(f"network: {name}", partial(_network, measured, name, effort, quick)) for name in networks.NAMES),
        *(Task(f"peak: {name}", partial(_peak, measured, name, quick)) for name in networks.NETWORKS),
        Task("process: first step", partial(_first_steps, measured, quick)),
        Task("process: import", partial(_imports, measured, quick)),
        *rows("fresh", fresh, cases.plain),
        Task("memory", partial(_memory, measured, quick)),
        *rows("fresh", fresh, cases.serial, on_threads=1),
        *rows("cold", cold, cases.cold),
        *rows("reused", partial(reused, measured), cases.reused),
    ]  # fmt: skip


def _layer(measured: Measured, number: int, effort: Effort) -> None:
    with threads(number):
        for part, times in networks.per_call(
            effort._replace(seconds=4 * effort.seconds)
        ):  # the shortest calls
            measured.calls[number, part] = times


def _network(measured: Measured, name: str, effort: Effort, quick: bool) -> None:
    measured.networks[name] = networks.network_times(name, effort, quick)


def _peak(measured: Measured, name: str, quick: bool) -> None:
    measured.peaks[name] = processes.peaks(name, quick)


def _memory(measured: Measured, quick: bool) -> None:
    measured.memory = networks.peak_memory(quick)


def _first_steps(measured: Measured, quick: bool) -> None:
    measured.processes["first step"] = processes.first_steps(quick, 1 if quick else processes.FIRST_ROUNDS)


def _imports(measured: Measured, quick: bool) -> None:
    measured.processes["import"] = processes.import_times(2 if quick else processes.IMPORT_ROUNDS)


def run(measured: Measured, chosen: list[Task]) -> None:
    """One after the other; those for which no time was left are named."""
    until = time.monotonic() + LIMIT
    for task in chosen:
        if time.monotonic() > until:
            measured.late.append(task.name)
            continue
        say(task.name)
        with noted(measured, task.name):
            task.work()


@contextmanager
def noted(measured: Measured, what: str) -> Iterator[None]:
    """A part that does not run is named on the page, and does not hide the others."""
    try:
        yield
    except RuntimeError as error:
        measured.failed[what] = first_line(error)


def main() -> int:
    """Measure, print, write; 0 if everything was measured and right."""
    options = _options()
    output = options.output or (RESULTS / "cpu.md" if sys.argv[1:] == [] else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.quick:
        torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
    cases, measured = suite(options.quick), Measured()
    chosen = [
        task
        for task in tasks(measured, cases, options.quick)
        if re.search(options.only, task.name, re.IGNORECASE)
    ]
    if options.list:
        print("\n".join(task.name for task in chosen))
        return 0
    command = "make bench" if sys.argv[1:] == [] else f"python -m benchmarks.run {' '.join(sys.argv[1:])}"
    heading = [f"`{command}`; load of the machine at the start {os.getloadavg()[0]:.1f}."]
    started, state = time.monotonic(), "interrupted"
    try:
        run(measured, chosen)
        state = "complete" if not measured.late else "out of time"
    finally:
        heading[0] += f" The run was {state} after {time.monotonic() - started:.0f} s."
        if options.quick:
            heading.append(
                "Tiny batches, few rounds: these figures say that the benchmark works, and nothing else."
            )
        text = page(measured, cases, heading)
        print(text)
        for row in losing(measured, cases):
            say(f"loses: {row.row}: the best peer takes {row.value.median:.2f} of our time")
        if output is not None:
            output.write_text(text, encoding="utf-8")
        if output == RESULTS / "cpu.md":
            draw()
    return 0 if state == "complete" and not (measured.wrong or measured.failed) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        "--only",
        dest="only",
        default="",
        metavar="PATTERN",
        help="rows whose names match, in any case",
    )
    parser.add_argument("--list", action="store_true", help="tell the names of the rows, measure nothing")
    parser.add_argument("--quick", action="store_true", help="tiny batches, one thread, few rounds")
    parser.add_argument("--output", type=Path, help="where to write the page (all rows: results/cpu.md)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
