"""The CPU's benchmark: `python -m benchmarks.run` measures for some eight minutes and writes `results/cpu.md`.

What no time was left for stands there as not measured; an interrupted run keeps what it has. `--quick` runs all of it
on tiny batches and one thread, to see whether it works, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import networks, processes
from benchmarks.cases import Suite, suite
from benchmarks.measure import ROUNDS, Measured, cold, compiled, first_line, fresh, reused, say, section
from benchmarks.page import page
from benchmarks.peers import keep_pages
from benchmarks.protocol import RESULTS
from benchmarks.verify import threads

LIMIT = 490
"""Seconds after which nothing new is started; a case takes at most some twenty on two cores."""
SHARES = {"fresh": 0.34, "fused": 0.6, "networks": 0.67, "processes": 0.82, "reused": 1.0}
"""Of that time, by when each section must give way to the next."""


def run(measured: Measured, cases: Suite, quick: bool) -> None:
    """Every section; regimes that keep pages come last, since nothing can undo it."""
    started, rounds = time.monotonic(), 3 if quick else ROUNDS
    until = {name: started + share * LIMIT for name, share in SHARES.items()}
    # networks and processes have a share of their own however long kernels take
    section(measured, "fresh", [*cases.plain, *cases.halves], fresh, rounds=rounds, until=until["fresh"])
    section(measured, "fresh", [*cases.renorm, *cases.masked], fresh, rounds=rounds, until=until["fused"])
    section(measured, "fresh", cases.fused, compiled(measured), rounds=rounds, until=until["fused"])
    with noted(measured, "memory"):
        measured.memory = networks.peak_memory(quick)
    for number in (1, 2):
        say(f"layers, {number} threads")
        with threads(number):
            for part, times in networks.per_call(rounds):
                measured.calls[number, part] = times
    for name in networks.NAMES:
        if time.monotonic() > until["networks"]:
            measured.late.append(name)
            continue
        say(name)
        with noted(measured, name):
            measured.networks[name] = networks.network_times(name, rounds, quick)
    new_processes(measured, quick, until["processes"])
    measured.pages_kept = keep_pages()
    section(measured, "reused", cases.reused, reused, rounds=rounds, until=until["reused"])
    section(measured, "cold", cases.cold, cold, rounds=rounds, until=until["reused"])
    section(measured, "fresh", cases.serial, fresh, rounds=rounds, until=until["reused"], on_threads=1)


def new_processes(measured: Measured, quick: bool, until: float) -> None:
    """Imports and first steps."""
    for name, measure in (
        ("first step", lambda: processes.first_steps(quick, 1 if quick else processes.FIRST_ROUNDS)),
        ("import", lambda: processes.import_times(2 if quick else processes.IMPORT_ROUNDS)),
    ):
        if time.monotonic() > until:
            measured.late.append(name)
            continue
        say(name)
        with noted(measured, name):
            measured.processes[name] = measure()


@contextmanager
def noted(measured: Measured, what: str) -> Iterator[None]:
    """A part that does not run is named on the page, and does not hide the others."""
    try:
        yield
    except RuntimeError as error:
        measured.failed[what] = first_line(error)


def main() -> int:
    """Measure, print, write; 0 if everything was measured and right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny batches, one thread, few rounds; writes nothing"
    )
    parser.add_argument("--output", type=Path, help="where to write the page (default: results/cpu.md)")
    options = parser.parse_args()
    output = options.output or (None if options.quick else RESULTS / "cpu.md")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.quick:
        torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
    cases, measured = suite(options.quick), Measured()
    command = "make bench" if sys.argv[1:] == [] else f"python -m benchmarks.run {' '.join(sys.argv[1:])}"
    heading = [f"`{command}`; load of the machine at the start {os.getloadavg()[0]:.1f}."]
    started, state = time.monotonic(), "interrupted"
    try:
        run(measured, cases, options.quick)
        state = "complete" if not measured.late else "out of time"
    finally:
        heading[0] += f" The run was {state} after {time.monotonic() - started:.0f} s."
        if options.quick:
            heading.append(
                "Tiny batches, few rounds: these figures say that the benchmark works, and nothing else."
            )
        text = page(measured, cases, heading)
        print(text)
        if output is not None:
            output.write_text(text, encoding="utf-8")
    return 0 if state == "complete" and not (measured.wrong or measured.failed) else 1


if __name__ == "__main__":
    sys.exit(main())
