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
from pathlib import Path

import torch

from benchmarks.gpu_rows import Row, fused_rows, plain_rows, renorm_rows, wrong
from benchmarks.gpu_table import LARGE, Measured, page

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu.md"
LIMIT = 450
"""Seconds after which nothing new is started; a row takes at most some twenty."""

CONTRACT = [
    "tests/ops/gpu/test_kernels.py",
    "tests/ops/gpu/test_compiled.py",
    "tests/ops/gpu/test_ranks.py",
    "tests/layers/test_cuda.py",
]
SHARDS = min(8, os.cpu_count() or 1)
"""Processes that share the tests: nearly all of their time is the compiler's."""

RUN_SHARD = """
import importlib.util, sys, types, pytest
from unittest import mock
tests = types.ModuleType("tests")  # a package of this name elsewhere would hide ours
tests.__path__ = ["tests"]
sys.modules["tests"] = tests
if importlib.util.find_spec("hypothesis") is None:  # the contract's searches are then left out
    def skipped(*arguments, **options):
        return lambda test: lambda self: pytest.skip("needs hypothesis")
    absent = types.ModuleType("hypothesis")
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
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
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


def measure(rows: list[Row], measured: Measured, deadline: float) -> None:
    """Verify each row and, if it is right, time it; stop in time."""
    from triton.errors import TritonError

    from benchmarks.gpu_timing import copy_bandwidth, times_of

    for row in rows:
        if time.monotonic() > deadline:
            print(f"out of time: {row} and what follows it is not measured")
            return
        print(row, flush=True)
        try:
            findings = list(wrong(row))
            measured.wrong += findings
            if findings:
                continue
            if row.bytes >= LARGE and row.op == "bn":
                measured.copies[row] = copy_bandwidth(row)
            measured.times[row] = times_of(row)
        except (
            RuntimeError,
            TritonError,
        ) as error:  # a peer that does not build or fit: the others still count
            measured.failed[row] = str(error).strip().splitlines()[0][:200]
        torch.cuda.empty_cache()


def main() -> int:
    """Everything, most wanted first; 0 if all tests passed and all rows were right."""
    reason = missing()
    if reason is not None:
        print(f"make gpu measures on an NVIDIA GPU with Triton: {reason}; run it on a machine that has both")
        return 2
    import triton

    from benchmarks.gpu_network import milliseconds

    started = time.monotonic()
    deadline = started + LIMIT
    measured = Measured(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    measured.contract = contract(150)
    print(measured.contract, flush=True)
    large = sorted(plain_rows(), key=lambda row: row.bytes < LARGE)
    measure(large, measured, deadline - 130)
    measure(renorm_rows(), measured, deadline - 110)
    if time.monotonic() < deadline - 60:
        try:
            measured.network = milliseconds()
        except RuntimeError as error:
            print(f"ResNet-50: {error}")
    measure(fused_rows(), measured, deadline - 20)
    text = page(measured)
    RESULT.write_text(text, encoding="utf-8")
    print(text, f"{time.monotonic() - started:.0f} s", sep="\n")
    return 0 if ", 0 failed" in measured.contract and not (measured.wrong or measured.failed) else 1


if __name__ == "__main__":
    sys.exit(main())
