"""Kernels and networks under each of the settings of memory that a user can choose. `python -m benchmarks.allocator`.

Half of the time of a step on large tensors goes into pages that the system hands out anew, for everybody. Each setting
is a new process, since environment variables are read at its start; ours and torch take turns in it, so that both have
the same. A few minutes; `--rows PATTERN` measures the rows whose names match and keeps nothing, `--settings PATTERN`
likewise. `--write` only writes the figures of `results/allocator.json` into `docs/howto/faster-cpu-training.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, shrunk
from benchmarks.measure import Effort, Times, fresh, say, timed
from benchmarks.networks import NETWORKS, trainings
from benchmarks.protocol import RESULTS, machine

KEPT = RESULTS / "allocator.json"
PAGE = Path(__file__).resolve().parents[1] / "docs/howto/faster-cpu-training.md"
BEGIN, END = (
    "<!-- from benchmarks/results/allocator.json: python -m benchmarks.allocator -->",
    "<!-- end of the figures -->",
)
LIMIT = 600
"""Seconds after which a process is given up."""
CASES = (
    Case((32, 256, 56, 56), "103 MB: memory sets the pace", large=True),
    Case((32, 256, 56, 56), "the same in channels last", channels_last=True, large=True),
    Case((4096, 1024), "17 MB"),
)
_PATIENT = Effort(rounds=9, seconds=1.0)
_QUICK = Effort(rounds=2)

Result = dict[str, dict[str, Any]]
"""Milliseconds of ours and of torch, by row: {"ours": …, "torch": …}."""


def settings() -> dict[str, dict[str, str]]:
    """The environment of each setting, by name; jemalloc where it is installed."""
    found = {
        "default": {},
        "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"},
        "kept pages": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"},
    }
    jemalloc = find_library("jemalloc")
    if jemalloc is not None:
        found["jemalloc"] = {"LD_PRELOAD": jemalloc}
    return found


def rows() -> dict[str, Callable[[Effort, bool], Times]]:
    """What is measured: seconds of ours and of torch, by name."""
    kernels = {f"step: {case}": _kernel(case) for case in CASES}
    return kernels | {f"network: {name}": _network(name) for name in NETWORKS}


def _kernel(case: Case) -> Callable[[Effort, bool], Times]:
    def run(effort: Effort, quick: bool) -> Times:
        return dict(fresh(shrunk(case) if quick else case, effort))["step"]

    return run


def _network(name: str) -> Callable[[Effort, bool], Times]:
    def run(effort: Effort, quick: bool) -> Times:
        both = {
            who: training.step for who, training in trainings(name, quick).items() if who in ("ours", "torch")
        }
        return timed(both, 1, effort)

    return run


def measured(pattern: str, quick: bool) -> Result:
    """The rows whose names match, under the settings of this process."""
    found = {}
    for name, run in rows().items():
        if re.search(pattern, name, re.IGNORECASE):
            say(f"  {name}")
            times = run(_QUICK if quick else _PATIENT, quick)
            found[name] = {who: 1e3 * statistics.median(times[who]) for who in ("ours", "torch")}
    return found


def under(environment: dict[str, str], pattern: str, quick: bool) -> Result:
    """The same in a new process with such an environment."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.allocator",
        "--here",
        "--rows",
        pattern,
        *["--quick"] * quick,
    ]
    variables = {name: value for name, value in os.environ.items() if name not in _all_variables()}
    done = subprocess.run(
        command, env=variables | environment, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT
    )
    return dict(json.loads(done.stdout))


def _all_variables() -> set[str]:
    """What may be set already and would make one setting another."""
    return {name for environment in settings().values() for name in environment}


def table(kept: dict[str, Any]) -> str:
    """The page's figures: time under each setting, ours and torch's, and their quotient."""
    names = list(kept["settings"])
    lines = [
        f"| one training step, ms: torch / ours (quotient) | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in kept["settings"][names[0]]:
        cells = [kept["settings"][name][row] for name in names]
        shown = [f"{c['torch']:.3g} / {c['ours']:.3g} ({c['torch'] / c['ours']:.2f})" for c in cells]
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", kept["machine"]])


def with_figures(page: str, figures: str) -> str:
    """The page with these figures between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def main() -> None:
    """Measure every setting, keep the results, and write them into the page."""
    options = _options()
    if options.here:
        json.dump(measured(options.rows, options.quick), sys.stdout)
        return
    if not options.write:
        found = {}
        for name, environment in settings().items():
            if re.search(options.settings, name):
                say(f"{name}: {' '.join(f'{key}={value}' for key, value in environment.items())}")
                found[name] = under(environment, options.rows, options.quick)
        kept = {"machine": machine(), "settings": found}
        print(table(kept))
        if options.rows or options.settings or options.quick:
            return
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), table(kept)), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", default="", metavar="PATTERN", help="rows whose names match; nothing is kept"
    )
    parser.add_argument(
        "--settings", default="", metavar="PATTERN", help="settings whose names match; likewise"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny batches, to see whether it works; likewise"
    )
    parser.add_argument("--write", action="store_true", help="only write the page, from what is kept")
    parser.add_argument("--here", action="store_true", help="under the settings of this process, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
