"""What `make gpu` runs and reports, as far as it can be tried without a GPU."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
import weakref
from importlib.metadata import distribution, distributions, requires
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from benchmarks import gpu_rows, gpu_timing
from benchmarks.gpu import RUN_SHARD, Worker, measure
from benchmarks.gpu_rows import F32, Row
from benchmarks.gpu_table import Measured, goals, page

ROOT = Path(__file__).parents[3]


class TestFigures:
    def test_goals_follow_from_times(self):
        row = Row((32, 256, 56, 56), F32)
        times = {"ours": 100.0, "cuDNN": 150.0, "native": 200.0}
        measured = Measured(times={row: {"forward": times, "backward": times}}, copies={row: 4e6})
        assert measured.share(row, "forward") == pytest.approx(3 * row.bytes / 100 / 4e6)
        lines = [goal.line(measured) for goal in goals()]
        assert any("fp32" in line and "| 1.500 | met |" in line for line in lines)
        assert any("bf16" in line and "not measured" in line for line in lines)
        assert "| 1.50 | 0." in page(measured)

    def test_the_page_in_the_repository_names_every_figure(self):
        kept = (ROOT / "benchmarks" / "results" / "gpu.md").read_text(encoding="utf-8")
        names = [
            re.escape(line.split("|")[1]) for line in page(Measured()).splitlines() if line.startswith("| ")
        ]
        assert [name for name in names if not re.search(name, kept)] == []


class TestRuns:
    """What must not go wrong the one time that somebody lends a GPU."""

    def test_what_breaks_a_process_costs_one_row(self):
        worker = Worker()
        try:
            for function, given, error in (
                (os._exit, 1, "BrokenProcessPool"),
                (time.sleep, 60.0, "TimeoutError"),
                (math.sqrt, -1.0, "ValueError"),
            ):
                with pytest.raises(Exception) as caught:
                    worker.do(0.5 if function is time.sleep else 60.0, function, given)
                assert type(caught.value).__name__ == error
                assert worker.do(60.0, math.sqrt, 4.0) == 2.0
        finally:
            worker.stop()

    def test_rows_that_fail_do_not_take_others_with_them(self):
        rows = [Row((size, 3), F32) for size in (8, 9, 10)]
        answers = {rows[0]: ([], 1.0, {"forward": {"ours": 1.0}}), rows[2]: (["off"], None, {})}
        worker = SimpleNamespace(do=lambda seconds, function, row: answers[row])
        measured = Measured()
        measure(rows, measured, worker, time.monotonic() + 60, time.monotonic() + 60)
        assert list(measured.times) == list(measured.copies) == [rows[0]]
        assert measured.wrong == ["off"]
        assert [reason.partition(":")[0] for reason in measured.failed.values()] == ["KeyError"]

    def test_what_a_graph_reads_lives_until_it_is_replayed(self, monkeypatch):
        outputs = []

        def forward(i):
            outputs.append(weakref.ref(y := i.x * i.weight + i.bias))
            return y

        def replayed(graphs, calls):
            return {name: output() is not None for name, output in zip(graphs, outputs, strict=True)}

        monkeypatch.setattr(gpu_rows, "DEVICE", "cpu")
        monkeypatch.setattr(gpu_timing, "interleaved", replayed)
        for name in ("Stream", "stream", "graph", "CUDAGraph", "current_stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
        inputs = gpu_rows.inputs(Row((8, 3), F32))
        alive = gpu_timing._backward(dict.fromkeys(("ours", "cuDNN", "native"), forward), inputs, 2)
        assert alive == {"ours": True, "cuDNN": True, "native": True}

    @pytest.mark.parametrize(
        ("run", "said"),
        [
            (["-m", "benchmarks.gpu"], "NVIDIA GPU"),
            (["-c", RUN_SHARD, "0", "1", "-q", "-c", os.devnull, "--rootdir", ".", "--import-mode=importlib",
              "-p", "no:cacheprovider", "tests/ops/gpu/test_ranks.py", "-k", "test_running_statistics"], "1 passed"),
        ],
        ids=["all of it", "a shard of the contract"],
    )  # fmt: skip
    def test_need_torch_triton_pytest_and_numpy_alone(self, run, said, tmp_path):
        pytest.importorskip("triton")
        packages = map(distribution, needed({"torch", "triton", "pytest", "numpy"}))
        files = {file.parts[0]: package for package in packages for file in package.files}
        for name in files.keys() - {"..", "__pycache__"}:
            (tmp_path / name).symlink_to(files[name].locate_file(name))
        path = os.pathsep.join(map(str, (tmp_path, ROOT / "src", ROOT)))
        done = subprocess.run(
            [sys.executable, "-S", *run], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": path, "NORMSMITH_CHECK_SHAPES": "0", "TRITON_INTERPRET": "1"},
        )  # fmt: skip
        assert said in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def needed(names):
    """Distributions, and all that these need."""
    found = set()
    while names:
        found |= names
        lines = [line for name in names for line in requires(name) or [] if "extra ==" not in line]
        names = {re.match(r"[\w.-]+", line)[0].lower() for line in lines} - found
        names = {name for name in names if any(distributions(name=name))}
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_make_gpu_explains_itself_where_there_is_no_gpu():
    done = subprocess.run(
        ["make", "-s", "gpu", f"PYTHON={sys.executable}"],
        cwd=ROOT, env={**os.environ, "NORMSMITH_CHECK_SHAPES": "0"}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len([line for line in done.stdout.splitlines() if line]) == 1
    assert "NVIDIA GPU" in done.stdout
