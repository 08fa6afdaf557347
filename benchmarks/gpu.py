"""The kernels on a GPU: `make gpu` runs their contract, verifies, times, and writes `results/gpu.md`.

Needs torch with CUDA, Triton, pytest and numpy; no network, no installation. Ends within 8 minutes: what no time was
left for stands as not measured.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_rows import Row, fused_rows, plain_rows, renorm_rows, wrong
from benchmarks.gpu_table import LARGE, Measured, page

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu.md"
LIMIT = 450
"""Seconds after which nothing new is started; a row takes at most some twenty."""
END = 475
"""Seconds after which nothing is waited for."""

CONTRACT = [
    "tests/ops/gpu/test_kernels.py",
    "tests/ops/gpu/test_compiled_graphs.py",
    "tests/ops/gpu/test_ranks.py",
    "tests/layers/test_cuda.py",
]
SHARDS = min(8, os.cpu_count() or 1)
"""Processes that share the tests: nearly all of their time is the compiler's."""

RUN_SHARD = """
import importlib.machinery, importlib.util, sys, types, pytest
from unittest import mock
tests = types.ModuleType("tests")  # a package of this name elsewhere would hide ours
tests.__path__ = ["tests"]
sys.modules["tests"] = tests
if importlib.util.find_spec("hypothesis") is None:  # the contract's searches are then left out
    def skipped(*arguments, **options):
        return lambda test: lambda self: pytest.skip("needs hypothesis")
    absent = types.ModuleType("hypothesis")
    absent.__spec__ = importlib.machinery.ModuleSpec("hypothesis", None)  # the compiler asks for it
    absent.given, absent.settings = skipped, lambda *arguments, **options: lambda test: test
    absent.strategies, absent.HealthCheck = mock.MagicMock(), ()
    sys.modules["hypothesis"] = absent
shard, shards, *arguments = sys.argv[1:]
class Shard:
    def pytest_collection_modifyitems(self, items):
        items[:] = items[int(shard)::int(shards)]
sys.exit(pytest.main(arguments, plugins=[Shard()]))
"""


def missing() -> str | None:
    """Why nothing can be measured here."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    return None


def contract(seconds: float) -> str:
    """Run the tests on the device; says how many passed, and keeps what failed on the screen."""
    arguments = [
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "NORMSMITH_CHECK_SHAPES": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    environment.pop("TRITON_INTERPRET", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN_SHARD, str(shard), str(SHARDS), *arguments, *CONTRACT],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for shard in range(SHARDS)
    ]  # fmt: skip
    deadline, passed, failed = time.monotonic() + seconds, 0, 0
    for process in processes:
        try:
            output, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            failed += 1
        if process.returncode not in (0, 5):  # 5: a shard without tests
            print(output)
        passed += _count(output, "passed")
        failed += _count(output, "failed") + _count(output, "error")
        failed += process.returncode not in (0, 1, 5) and not _count(output, "failed")
    return f"{passed} tests passed, {failed} failed"


def _count(output: str, word: str) -> int:
    return sum(int(number) for number in re.findall(rf"(\d+) {word}", output.strip().rpartition("\n")[2]))


class Worker:
    """A process that measures. What breaks it or never ends costs one row: the next one gets a new process.

    An illegal address, for one, leaves nothing of a process that CUDA would still work for.
    """

    def __init__(self) -> None:
        self.processes: ProcessPoolExecutor | None = None

    def do(self, seconds: float, function: Callable[..., Any], *given: Any) -> Any:
        """What the function returns there; whatever it raises, or that it took too long, is raised here."""
        if self.processes is None:
            self.processes = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            return self.processes.submit(function, *given).result(seconds)
        except Exception:
            self.stop()
            raise

    def stop(self) -> None:
        """Whatever it is doing."""
        if self.processes is not None:
            for process in active_children():
                process.kill()
            self.processes.shutdown()
            self.processes = None


def examined(row: Row) -> tuple[list[str], float | None, dict[str, dict[str, float]]]:
    """What is wrong with a row; if nothing, the bandwidth of a copy, where it counts, and the times."""
    from benchmarks.gpu_timing import copy_bandwidth, times_of

    findings, copied = list(wrong(row)), None
    if findings:
        return findings, None, {}
    if row.bytes >= LARGE and row.op == "bn":
        copied = copy_bandwidth(row)
    times = times_of(row)
    torch.cuda.empty_cache()
    return [], copied, times


def measure(rows: list[Row], measured: Measured, worker: Worker, deadline: float, end: float) -> None:
    """Verify each row and, if it is right, time it; stop in time."""
    for row in rows:
        if time.monotonic() > deadline:
            print(f"out of time: {row} and what follows it is not measured")
            return
        print(row, flush=True)
        try:
            findings, copied, times = worker.do(min(60.0, end - time.monotonic()), examined, row)
        except Exception as error:  # noqa: BLE001 — a peer that does not build, a kernel that crashes: the others still count
            measured.failed[row] = reason(error)
            continue
        measured.wrong += findings
        if copied is not None:
            measured.copies[row] = copied
        if times:
            measured.times[row] = times


def reason(error: Exception) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def main() -> int:
    """Everything, most wanted first; 0 if all tests passed and all rows were right."""
    absent = missing()
    if absent is not None:
        print(f"make gpu measures on an NVIDIA GPU with Triton: {absent}; run it on a machine that has both")
        return 2
    import triton

    from benchmarks.gpu_host import host_microseconds
    from benchmarks.gpu_network import milliseconds

    started = time.monotonic()
    deadline, end, worker = started + LIMIT, started + END, Worker()
    measured = Measured(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    measured.contract = contract(150)
    print(measured.contract, flush=True)
    large = sorted(plain_rows(), key=lambda row: row.bytes < LARGE)
    measure(large, measured, worker, deadline - 130, end)
    measure(renorm_rows(), measured, worker, deadline - 110, end)
    if time.monotonic() < deadline - 60:
        try:
            measured.network = worker.do(60.0, milliseconds)
        except Exception as error:  # noqa: BLE001 — the rows still count
            print(f"ResNet-50: {reason(error)}")
    try:
        measured.host = worker.do(30.0, host_microseconds)
    except Exception as error:  # noqa: BLE001 — the rows still count
        print(f"host time: {reason(error)}")
    measure(fused_rows(), measured, worker, deadline - 20, end)
    worker.stop()
    text = page(measured)
    RESULT.write_text(text, encoding="utf-8")
    print(text, f"{time.monotonic() - started:.0f} s", sep="\n")
    return 0 if ", 0 failed" in measured.contract and not (measured.wrong or measured.failed) else 1


if __name__ == "__main__":
    sys.exit(main())
