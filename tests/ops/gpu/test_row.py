"""The row on a machine without a GPU, how batches are cut, and what `make gpu` says there."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
import weakref
from importlib.metadata import distribution, distributions, requires
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from benchmarks import gpu_rows, gpu_timing
from benchmarks.gpu import RUN_SHARD, Worker, measure
from benchmarks.gpu_rows import F32, Row
from benchmarks.gpu_table import Measured, goals, page
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

from normsmith.errors import InputError
from normsmith.ops.activation import Activation
from normsmith.ops.call import Call
from normsmith.ops.gpu import backend, launch
from normsmith.ops.gpu.plan import Matrix, matrix, plan
from normsmith.ops.moments import Groups, ghost_groups

ROOT = Path(__file__).parents[3]


class TestSupports:
    row = backend.Triton()

    @pytest.fixture
    def fit(self, monkeypatch):
        """A device that would run the kernels."""
        pytest.importorskip("triton")
        monkeypatch.setattr(backend, "_unfit", lambda device: None)
        names = type("launch", (), {"name_of": staticmethod(lambda act: None if act else "none")})
        monkeypatch.setattr(backend, "_launches", lambda: (names, None, None))

    def test_other_devices(self):
        assert "NVIDIA" in self.row.supports(torch.randn(4, 3), Call())
        assert "on meta" in self.row.supports(torch.randn(4, 3, device="meta"), Call())

    def test_a_machine_without_triton(self, monkeypatch):
        backend._unfit.cache_clear()
        monkeypatch.setattr(backend, "find_spec", lambda name: None)
        assert "not installed" in self.row.supports(torch.randn(4, 3), Call())
        backend._unfit.cache_clear()

    @pytest.mark.parametrize(
        ("capability", "hip", "reason"),
        [((7, 5), None, "got 7.5"), ((9, 4), "6.4", "ROCm"), (None, None, "no GPU here")],
    )
    def test_other_gpus(self, monkeypatch, capability, hip, reason):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        backend._unfit.cache_clear()
        assert reason in backend._unfit(torch.device("cuda", 0))
        backend._unfit.cache_clear()

    def test_a_machine_on_which_triton_finds_no_compiler(self, monkeypatch):
        runtime = pytest.importorskip("triton.runtime")

        class Link:
            def get_current_target(self):
                raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(runtime.driver, "_active", Link())
        backend._unfit.cache_clear()
        reason = backend._unfit(torch.device("cuda", 0))
        backend._unfit.cache_clear()
        assert reason == (
            "Triton does not start here (RuntimeError: Failed to find C compiler. Please specify via CC)"
        )

    def test_what_the_kernels_do_not_know(self, fit):
        assert self.row.supports(torch.randn(4, 3), Call()) is None
        assert "float64" in self.row.supports(torch.zeros(4, 3, dtype=torch.float64), Call())
        assert "got 1" in self.row.supports(torch.randn(1, 3), Call())
        assert self.row.supports(torch.randn(1, 3), Call(by_batch=False)) is None
        assert "got 0" in self.row.supports(torch.randn(0, 3), Call(by_batch=False))
        assert "activation" in self.row.supports(
            torch.randn(4, 3), Call(activation=Activation(torch.sin, torch.mul))
        )
        for shape in ((2, 2**16, 2**15), (1, 1, 2**31 - 5)):
            huge = torch.empty(1, device="meta").expand(shape)
            assert "32 bits" in self.row.supports(huge, Call())
        assert self.row.supports(torch.empty(1, device="meta").expand(1, 1, 2**31 - 2**10), Call()) is None

    def test_who_wants_to_see_every_operation(self, fit, monkeypatch):
        x = torch.randn(4, 3)
        with FlopCounterMode(display=False):
            assert "see every operation" in self.row.supports(x, Call())
        with FakeTensorMode() as mode:
            assert "see every operation" in self.row.supports(mode.from_tensor(x), Call())
        monkeypatch.setattr(backend, "eager", lambda: False)
        assert "see every operation" in self.row.supports(x, Call())

    def test_tensors_whose_memory_says_less_than_they_mean(self, fit):
        assert "plain tensors" in self.row.supports(torch.randn(4, 3, dtype=torch.cfloat).conj().imag, Call())
        assert "got Strange" in self.row.supports(torch.randn(4, 3).as_subclass(Strange), Call())
        assert self.row.supports(Parameter(torch.randn(4, 3)), Call()) is None

    def test_partners_on_another_device_are_refused(self):
        x, away = torch.randn(4, 3), torch.empty(3, device="meta")
        with pytest.raises(InputError, match=r"device, cpu, got one on meta; .*\.to\(x\.device\)"):
            launch.beside(x, None, x[0], away)
        batch = launch.geometry(x, None, None)
        with pytest.raises(InputError, match=r"residual: .* got meta"):
            batch.like(away.expand(4, 3))


class Strange(torch.Tensor):
    """A tensor whose memory may mean something else."""


SHAPES = [
    (60, 100),
    (4_000_000, 8),
    (32, 256, 56, 56),
    (64, 2048, 7, 7),
    (8, 3, 224, 224),
    (2, 3, 2, 3, 4),
    (1, 1, 2),
]


@pytest.mark.parametrize(
    ("shape", "channels_last", "ghost"), list(product(SHAPES, [False, True], [None, 2, 3]))
)
def test_every_element_is_in_exactly_one_tile(shape, channels_last, ghost):
    """What the kernels take for granted of a plan, on batches of all kinds."""
    samples, channels, positions = shape[0], shape[1], torch.Size(shape[2:]).numel()
    last = channels_last and len(shape) > 2
    batch = (
        Matrix(samples * positions, channels, 1, channels, positions)
        if last
        else Matrix(samples, channels * positions, positions, channels, 1)
    )
    groups: Groups | None = ghost_groups(samples, positions, ghost)
    for itemsize in (2, 4):
        cut = plan(batch, groups, itemsize, 132)
        assert cut.groups * cut.size >= batch.rows - cut.size
        assert (cut.groups - 1) * cut.size < batch.rows
        width = cut.tile.columns
        assert cut.blocks == channels if cut.planes else cut.blocks * width >= batch.columns
        assert not (cut.held and cut.planes) or width >= positions
        assert max(cut.tile.columns, cut.elementwise.columns) <= 2**10 or cut.held
        assert not cut.held or cut.tile.rows >= cut.size
        assert batch.columns % cut.unit == 0
        for tile in (cut.tile, cut.elementwise):
            assert tile.rows & (tile.rows - 1) == tile.columns & (tile.columns - 1) == 0
            assert tile.rows * tile.columns <= 2**20
            assert 1 <= tile.warps <= 32


def test_memory_orders():
    x = torch.empty(4, 3, 5, 6, device="meta")
    assert matrix(x) == Matrix(4, 90, 30, 3, 1)
    assert matrix(x.to(memory_format=torch.channels_last)) == Matrix(120, 3, 1, 3, 30)
    assert matrix(x.transpose(2, 3)) is None


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
