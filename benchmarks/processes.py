"""What only a new process shows: the time of an import, of a first training step, and the most memory it had."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks.measure import Times, say

IMPORT_ROUNDS = 15
FIRST_ROUNDS = 2
"""Each costs two processes of several seconds: fewer rounds than elsewhere."""
LIMIT = 120
"""Seconds after which a process is given up."""

_IMPORT = "import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
_FIRST = """
import time, torch
from benchmarks.networks import Training, resnet
torch.manual_seed(0)
network, x = resnet({quick})
if {ours}:
    from normsmith.surgery import convert
    convert(network, "batch").apply()
training = Training(network, x, 10)
t = time.perf_counter()
training.step()
print(time.perf_counter() - t)
"""


_PEAK = """
import sys
from benchmarks.networks import trainings
training = trainings({name!r}, {quick}, only={norms!r})[{norms!r}]
for _ in range(3):
    training.step()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""VmHWM begins anew with the program; what `getrusage` says begins with the peak of the process that started it."""


def peaks(name: str, quick: bool) -> dict[str, float]:
    """MB that a process has at most in memory as it trains a network, by whose norms it has."""
    return {
        norms: _seconds(_PEAK.format(name=name, quick=quick, norms=norms)) / 1e3
        for norms in ("ours", "torch")
    }


def import_times(rounds: int = IMPORT_ROUNDS) -> Times:
    """Seconds to import torch, and to import us with it."""
    return _alternating(
        {"ours": lambda: _seconds(_IMPORT.format(name="normsmith")),
         "torch": lambda: _seconds(_IMPORT.format(name="torch"))},
        rounds,
    )  # fmt: skip


def first_steps(quick: bool, rounds: int = FIRST_ROUNDS) -> Times:
    """Seconds of the first training step of a ResNet; ours finds an empty cache of kernels."""

    def ours() -> float:
        with tempfile.TemporaryDirectory() as empty:
            return _seconds(_FIRST.format(ours=True, quick=quick), NUMBA_CACHE_DIR=empty)

    return _alternating(
        {"ours": ours, "torch": lambda: _seconds(_FIRST.format(ours=False, quick=quick))}, rounds
    )


def _alternating(candidates: dict[str, Callable[[], float]], rounds: int) -> Times:
    times: Times = {name: [] for name in candidates}
    for round_ in range(rounds):
        for name in candidates if round_ % 2 == 0 else reversed(candidates):
            times[name].append(candidates[name]())
    return times


def _seconds(program: str, **environment: str) -> float:
    """What a new process prints last.

    Raises:
        RuntimeError: it fails or takes too long.
    """
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **environment},
            capture_output=True, text=True, check=False, timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"a process took more than {LIMIT} s") from error
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    say(f"  a process of {time.monotonic() - started:.1f} s")
    return float(done.stdout.split()[-1])
