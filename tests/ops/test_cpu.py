"""The CPU kernels as neighbours: threads, forks, memory, a cache on disk, and a machine without numba."""

from __future__ import annotations

import copy
import gc
import os
import platform
import re
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from tests.contracts.backend import OPTIONS, options_for
from tests.ranks import run_ranks
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d, BatchNorm2d
from normsmith.ops import Renorm, Running, batch_norm
from normsmith.ops._check import make_call
from normsmith.ops.call import Update
from normsmith.ops.cpu import calls, memory, threads
from normsmith.ops.cpu.backend import Numba

SHAPES = [
    pytest.param((1000, 70), id="rows"),
    pytest.param((8, 16, 20, 20), id="planes"),
    pytest.param((2, 2, 210, 210), id="fewer channels than threads want"),
    pytest.param((40, 40, 7, 7), id="small planes"),
    pytest.param((400, 16, 4, 5), id="small planes of few channels"),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EACH_OPTION = [name for name in OPTIONS if name != "gelu"]
"""All but one in which torch computes too."""


def make(shape, dtype=torch.float32, layout=torch.contiguous_format, option="renorm"):
    """A call on random tensors: batch, partners, running statistics, and the options asked for."""
    work = torch.float64 if dtype == torch.float64 else torch.float32
    x = (torch.randn(shape) * 2 + 3).to(dtype).to(memory_format=layout)
    channels = shape[1]
    running = Running(torch.randn(channels, dtype=work), torch.rand(channels, dtype=work) + 0.5)
    weight, bias = torch.rand(channels, dtype=work) + 0.5, torch.randn(channels, dtype=work)
    residual = torch.randn_like(x) if "residual" in option else None
    call = make_call(x, **options_for(x, OPTIONS[option]))
    return x, weight, bias, residual, running, call, torch.randn_like(x)


def everything(x, weight, bias, residual, running, call, g):
    """All that forward and backward write, running statistics among it."""
    running = Running(*(None if buffer is None else buffer.clone() for buffer in running))
    row = Numba()
    assert row.supports(x, call) is None
    y, kept, _ = row.forward(x, weight, bias, residual, running, call, Update(0.1, True))
    dx, dresidual, affine = row.backward(g, x, residual, kept, call, True)
    found = [y, dx, dresidual, affine.weight, affine.bias, running.mean, running.var]
    return [tensor for tensor in found if tensor is not None]


def python(code, bound=120, **environment):
    """What a fresh process prints, and what it says on its standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=bound,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


class TestThreads:
    @pytest.mark.parametrize("option", ["residual, relu", "ghost, mask, residual, relu", "renorm", "running"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_two_agree_with_one(self, shape, option, two_threads):
        for layout in (torch.contiguous_format, torch.channels_last):
            if layout == torch.channels_last and len(shape) != 4:
                continue
            case = make(shape, layout=layout, option=option)
            two = everything(*case)
            torch.set_num_threads(1)
            one = everything(*case)
            torch.set_num_threads(2)
            for a, b in zip(one, two, strict=True):
                scale = b.abs().max().clamp(min=1.0)
                torch.testing.assert_close(a / scale, b / scale, rtol=1e-5, atol=1e-5)

    def test_as_many_as_torch_is_told(self, monkeypatch, two_threads):
        asked = []
        openmp = threads._openmp()
        if openmp is None:
            pytest.skip("torch has no GOMP_parallel here")
        start, *addresses = openmp

        def recorded(kernel, block, number, flags):
            asked.append(number)
            start(kernel, block, number, flags)

        monkeypatch.setattr(threads, "_openmp", lambda: (recorded, *addresses))
        large, small = make((1000, 70)), make((60, 70))
        everything(*large)
        assert set(asked) == {2}
        asked.clear()
        everything(*small)
        torch.set_num_threads(1)
        everything(*large)
        assert asked == []

    def test_memory_is_on_the_cpu_whatever_the_default_device(self):
        case = make((33, 5), option="mask, residual, relu")
        want = everything(*case)
        calls._WORKSPACE.blocks.clear()
        calls._WORKSPACE.partial = None
        with torch.device("meta"):
            found = everything(*case)
        for one, other in zip(found, want, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("number", [1, 2])
    def test_calls_from_eight_python_threads(self, number):
        torch.set_num_threads(number)
        cases = [
            make(shape.values[0], dtype, option=option)
            for shape, dtype, option in zip(
                (SHAPES * 2)[:8], DTYPES * 2, (*EACH_OPTION[:4], *EACH_OPTION[-4:]), strict=True
            )
        ]
        try:
            want = [everything(*case) for case in cases]
            together = threading.Barrier(8)

            def work(index):
                together.wait(60)
                return [
                    (torch.set_num_threads(number), everything(*cases[(index + turn) % 8]))[1]
                    for turn in range(8)
                ]

            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(work, range(8), timeout=120))
        finally:
            torch.set_num_threads(1)
        for index, turns in enumerate(found):
            for turn, results in enumerate(turns):
                for a, b in zip(results, want[(index + turn) % 8], strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_own_threads_where_torchs_cannot_be_had(self, shape, monkeypatch, two_threads):
        case = make(shape, option="residual, relu")
        want = everything(*case)
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        for a, b in zip(everything(*case), want, strict=True):
            torch.testing.assert_close(a, b)
        assert any(thread.name.startswith("normsmith") for thread in threading.enumerate())

    @pytest.mark.parametrize("setting", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}], ids=str)
    def test_fewer_threads_than_asked_for_write_everything(self, setting):
        code = """
            import torch
            from normsmith.ops import batch_norm
            torch.set_num_threads(4)
            torch.utils.deterministic.fill_uninitialized_memory = True
            torch.use_deterministic_algorithms(True)
            for shape in ((1000, 70), (8, 16, 20, 20), (2, 2, 210, 210)):
                x = torch.randn(shape, requires_grad=True)
                mean, var = torch.zeros(shape[1]), torch.ones(shape[1])
                y = batch_norm(x, mean, var, activation="relu")
                y.square().sum().backward()
                z = x.detach().double().requires_grad_()
                want = torch.relu(torch.nn.functional.batch_norm(z, None, None, training=True))
                want.square().sum().backward()
                torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(x.grad.double(), z.grad, rtol=1e-4, atol=1e-5)
                assert mean.isfinite().all() and var.isfinite().all()
            print("right")
        """
        assert python(code, **setting)[0] == "right\n"


class TestProcesses:
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
    def test_fork_after_a_call_on_two_threads(self):
        """In the child torch's threads are gone, and libgomp would wait for them."""
        code = """
            import os, signal, time, torch, warnings
            warnings.simplefilter("ignore")
            from normsmith.ops import batch_norm
            torch.set_num_threads(2)
            x = torch.randn(1000, 70)
            want = batch_norm(x)
            child = os.fork()
            if child == 0:
                y = batch_norm(x)  # comparing would be torch's, on its threads
                os._exit(0 if y[:2].tolist() == want[:2].tolist() or (y[:2] - want[:2]).abs().max() < 1e-5 else 3)
            end = time.monotonic() + 30
            while time.monotonic() < end:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    break
                time.sleep(0.01)
            else:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise SystemExit("the child hangs")
            print(os.waitstatus_to_exitcode(status))
        """
        assert python(code)[0] == "0\n"

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux")
    def test_loader_workers(self):
        code = """
            import torch, warnings
            warnings.simplefilter("ignore")
            from torch.utils.data import DataLoader, Dataset
            from normsmith.layers import BatchNorm1d

            class Normalised(Dataset):
                def __init__(self):
                    self.layer = BatchNorm1d(70)
                def __len__(self):
                    return 8
                def __getitem__(self, index):
                    return self.layer(torch.full((1000, 70), float(index)) + torch.arange(1000.0)[:, None]).detach()

            torch.set_num_threads(2)
            data = Normalised()
            want = data[0]
            loader = DataLoader(data, batch_size=2, num_workers=2, timeout=60, multiprocessing_context="fork")
            for _ in range(2):
                for found in loader:
                    torch.testing.assert_close(found, want.expand(2, -1, -1), rtol=1e-5, atol=1e-5)
            print("right")
        """
        assert python(code)[0] == "right\n"

    def test_two_ranks(self):
        assert run_ranks(trained_alike, 2) == ["numba: taken", "numba: taken"]


def trained_alike(rank: int, size: int) -> str:
    """A step under DistributedDataParallel on two threads, against the same step on the whole gradient."""
    from normsmith.ops import explain

    torch.set_num_threads(2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), BatchNorm2d(8), nn.ReLU())
    twin = copy.deepcopy(net)
    batches = torch.randn(size, 4, 3, 40, 40)
    wrapped = nn.parallel.DistributedDataParallel(net)
    wrapped(batches[rank]).square().mean().backward()
    torch.stack([twin(batch).square().mean() for batch in batches]).mean().backward()
    for mine, whole in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, whole.grad, rtol=1e-4, atol=1e-5)
    return explain(batches[rank])


class Guarded:
    """Gives out memory in the middle of more, and sees whether somebody wrote beside it."""

    _AROUND = 4096

    def __init__(self, monkeypatch):
        self._blocks = []
        self._empty = torch.empty
        monkeypatch.setattr(memory, "like", self.like)
        monkeypatch.setattr(torch, "empty", self.empty)

    def empty(self, *shape, dtype=torch.float32, device="cpu"):
        size = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        return self._block(size.numel(), dtype).view(size)

    def like(self, x):
        return self._block(x.numel(), x.dtype).as_strided(x.shape, x.stride())

    def _block(self, number, dtype):
        size = number * dtype.itemsize
        block = self._empty(self._AROUND + size + self._AROUND, dtype=torch.uint8)
        block.fill_(0xA5)
        inner = block[self._AROUND : self._AROUND + size]
        if dtype.is_floating_point:
            inner.view(dtype).fill_(torch.nan)
        self._blocks.append(block)
        return inner.view(dtype)

    def check(self):
        assert len(self._blocks) >= 4
        for block in self._blocks:
            assert (block[: self._AROUND] == 0xA5).all(), "written before the beginning"
            assert (block[-self._AROUND :] == 0xA5).all(), "written past the end"


class TestMemory:
    @pytest.mark.parametrize("option", EACH_OPTION)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_all_is_written_and_nothing_beside(self, dtype, option, monkeypatch):
        """Of outputs, statistics, masks and partial sums; one thread and two."""
        shapes = [(37, 13), (5, 3, 233), (7, 5, 15, 17), (11, 37, 3, 3), (3, 1031), (23, 3, 41, 41)]
        layouts = (torch.contiguous_format, torch.channels_last)
        for shape, layout in [(s, m) for s in shapes for m in layouts if m == layouts[0] or len(s) == 4]:
            case = make(shape, dtype, layout, option)
            with monkeypatch.context() as patch:
                patch.setattr(calls, "_ROOM", 0)
                guarded = Guarded(patch)
                patch.setattr(threads, "SERIAL_BELOW", 1)
                patch.setattr(torch, "get_num_threads", lambda: 2)
                found = everything(*case)
            guarded.check()
            assert all(tensor.isfinite().all() for tensor in found)

    def test_a_thousand_calls_need_no_more(self):
        def train(number):
            torch.manual_seed(0)
            for _ in range(number):
                rows, channels, side = torch.randint(2, 30, (3,)).tolist()
                layer = BatchNorm2d(channels)
                x = torch.randn(rows, channels, side, side, requires_grad=True)
                layer(x).sum().backward()
            assert len(calls._WORKSPACE.blocks) <= calls._BLOCKS
            calls._WORKSPACE.blocks.clear()  # how many there are now is chance
            gc.collect()
            return resident(), len(gc.get_objects())

        train(1000)
        bytes_before, objects_before = train(10)
        bytes_after, objects_after = train(1000)
        assert bytes_after - bytes_before < 16 << 20  # an output each would be 100 times as much
        assert objects_after - objects_before < 100

    @pytest.mark.full
    def test_more_bytes_than_32_bits_count(self):
        """By pattern: the statistics of a batch that repeats itself are those of its part."""
        part = torch.randn(2, 16, 64, 64).bfloat16()
        times = 2**31 // part.nbytes + 1
        for layout in (torch.contiguous_format, torch.channels_last):
            piece = part.contiguous(memory_format=layout)
            x = piece.repeat(times, 1, 1, 1).contiguous(memory_format=layout)
            assert x.nbytes > 2**31
            row, call = Numba(), make_call(x)
            y, kept, _ = row.forward(x, None, None, None, None, call)
            want, small, _ = row.forward(piece, None, None, None, None, call)
            off = y.unflatten(0, (times, 2)) - want
            assert off.abs().amax() <= 0.04  # the last bit of numbers up to 8
            assert off.count_nonzero() <= 1e-3 * off.numel()
            shifted = piece.roll(1, -1)
            g = shifted.repeat(times, 1, 1, 1).contiguous(memory_format=layout)
            dx, _, _ = row.backward(g, x, None, kept, call, True)
            right, _, _ = row.backward(shifted, piece, None, small, call, True)
            off = (dx.unflatten(0, (times, 2)) - right).abs().amax()
            assert off <= 0.01 * right.abs().amax()
            del x, y, g, dx


def resident() -> int:
    """Bytes of memory that this process holds."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the system does not say what a process holds")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestNonFinite:
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_comes_through_and_stays_in_its_channel(self, shape, dtype, value):
        for layout in (torch.contiguous_format, torch.channels_last):
            if layout == torch.channels_last and len(shape) != 4:
                continue
            x, weight, bias, _, running, call, g = make(shape, dtype, layout, "renorm")
            x[(1, 1) + (2,) * (x.ndim - 2)] = value
            y, dx, dweight, dbias, mean, var = everything(x, weight, bias, None, running, call, g)
            others = [channel for channel in range(shape[1]) if channel != 1]
            assert all(t.transpose(0, 1)[others].isfinite().all() for t in (y, dx))
            assert all(t[others].isfinite().all() for t in (dweight, dbias))
            assert not y[(1, 1) + (2,) * (x.ndim - 2)].isfinite()
            assert not dweight[1].isfinite()
            assert torch.equal(mean[1], running.mean[1])  # such a batch is left out
            assert torch.equal(var[1], running.var[1])

    def test_gradients_that_are_not_finite_come_through(self):
        x, weight, bias, _, running, call, g = make((8, 16, 20, 20))
        g[3, 5, 1, 1] = torch.nan
        _, dx, dweight, *_ = everything(x, weight, bias, None, running, call, g)
        assert not dx[:, 5].isfinite().any()
        assert dx[:, :5].isfinite().all()
        assert not dweight[5].isfinite()
        assert dweight[6:].isfinite().all()


class TestOtherDevices:
    """An address of another device would be read as one of memory."""

    @pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var", "residual"])
    def test_partners_are_refused(self, name):
        x = torch.randn(6, 3)
        partners = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
        partners[name] = torch.ones(6, 3) if name == "residual" else torch.ones(3)
        partners[name] = partners[name].to("meta")
        with pytest.raises(InputError, match=r"the input's device, cpu, got .*meta"):
            batch_norm(x, **partners)

    def test_counters_of_another_dtype_count(self):
        counter = torch.zeros((), dtype=torch.int32)
        batch_norm(torch.randn(6, 3), torch.zeros(3), torch.ones(3), num_batches_tracked=counter)
        assert counter == 1


class TestAutograd:
    def test_a_running_buffer_that_was_saved_for_backward_may_not_change(self):
        layer, scale = BatchNorm1d(3), torch.ones(3, requires_grad=True)
        distance = (scale * layer.running_mean).sum()
        buffers = layer.running_mean, layer.running_var, layer.num_batches_tracked
        before = [buffer._version for buffer in buffers]
        layer(torch.randn(8, 3))
        assert [buffer._version for buffer in buffers] == [version + 1 for version in before]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            distance.backward()

    def test_second_gradients_are_the_references(self):
        x = torch.randn(6, 4, 3, dtype=torch.float64)
        weight = torch.rand(4, dtype=torch.float64) + 0.5

        def second(x, weight, **options):
            x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
            y = batch_norm(x, torch.zeros(4).to(x), torch.ones(4).to(x), weight, **options)
            (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
            return torch.autograd.grad(first.square().sum(), (x, weight))

        for options in ({}, {"renorm": Renorm(1.2, 0.1)}, {"activation": "gelu"}):
            want = second(x, weight, **options)
            for got, right in zip(second(x.float(), weight.float(), **options), want, strict=True):
                scale = right.abs().max()
                torch.testing.assert_close(got.double() / scale, right / scale, rtol=1e-4, atol=1e-5)


class TestCache:
    """With a kernel that compiles in a second; what is beside the package stays as it is."""

    KERNEL = (sys.executable, "-W", "error", "-m", "tests.ops.tiny_kernel")

    def start(self, folder, *arguments):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
        root = Path(__file__).parents[2]
        return subprocess.Popen(
            [*self.KERNEL, *arguments], env=environment, cwd=root, stdout=PIPE, stderr=PIPE, text=True
        )

    def ends_well(self, process):
        try:
            printed, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert printed == "42\n", errors

    def test_two_processes_at_once_then_damage(self, tmp_path):
        """Into one empty folder; then the kernel's file is cut short, and mended by the process that meets it."""
        for process in [self.start(tmp_path), self.start(tmp_path)]:
            self.ends_well(process)
        (kernel,) = tmp_path.rglob("*columns_forward*.nbc")
        (index,) = tmp_path.rglob("*columns_forward*.nbi")
        whole = kernel.stat().st_size
        for damaged in (kernel, index):
            damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
            self.ends_well(self.start(tmp_path))
            assert kernel.stat().st_size > 0.9 * whole

    def test_names_hold_all_sources(self):
        """Whatever a kernel is made of is in the digest: that of the folder, out of which its files import nothing."""
        pytest.importorskip("numba")
        from normsmith.ops.cpu.kernels import compile

        files = list(Path(compile.__file__).parent.glob("*.py"))
        assert len(files) > 5
        named = {
            name for file in files for name in re.findall(r"^from (normsmith[\w.]*)", file.read_text(), re.M)
        }
        assert all(name.startswith("normsmith.ops.cpu.kernels") for name in named), named

    def test_names_of_parts_mean_one_function(self):
        """Kernels of several processes meet in one and share parts by name; numba's numbers differ by process.

        Once, the backward of one process called the forward's loop of another, and its sums were 0.
        """
        numba = pytest.importorskip("numba")
        from normsmith.ops.cpu.kernels import compile, lanes

        assert len(set(lanes.NAMES)) == len(lanes.NAMES)
        called: dict[str, set[str]] = {}
        for direction in ("forward", "backward"):
            run = compile._RUNS["columns", direction]
            body = compile._body(run, direction, True, np.float32, np.float32)
            # from the cache come no names
            made = numba.cfunc(compile._SIGNATURE, nopython=True, error_model="numpy")(body)
            functions = made._library._final_module.functions
            called[direction] = {
                re.sub(r"B\d+v\d+", "", function.name)
                for function in functions
                if "_over_lines" in function.name and not function.is_declaration
            }
        assert called["forward"]
        assert called["forward"].isdisjoint(called["backward"])

    def test_nowhere_to_write(self, tmp_path):
        self.ends_well(self.start(tmp_path, "--nowhere-to-write"))
        assert not any(tmp_path.iterdir())


class TestOlderProcessors:
    """Kernels are compiled for the processor that NUMBA_CPU_NAME says: one of 2003 rounds no half precision."""

    PROGRAM = """
        import torch
        from normsmith import BatchNorm2d
        from normsmith.ops import explain

        x = torch.randn(4, 2, 20, 20, generator=torch.Generator().manual_seed(0))
        want = torch.nn.BatchNorm2d(2)(x.bfloat16().float())
        leaf = x.bfloat16().requires_grad_()
        y = BatchNorm2d(2)(leaf)
        y.float().square().sum().backward()
        torch.testing.assert_close(y.float(), want, rtol=2**-8, atol=1e-6)
        assert leaf.grad.isfinite().all()
        assert BatchNorm2d(2)(torch.full_like(x, torch.nan).bfloat16()).isnan().all()
        print(explain(x.bfloat16()), explain(x.half()).splitlines()[0], sep="\\n")
    """

    @pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
    def test_half_precision(self, tmp_path):
        environment = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(self.PROGRAM)],
            env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.stdout == "numba: taken\nnumba: this processor converts no float16\n", done.stderr


class TestWithoutNumba:
    def test_slower_paths_serve_and_one_warning_says_so(self):
        code = """
            import sys, warnings
            sys.modules["numba"] = None
            import torch
            from normsmith.layers import BatchNorm1d, BatchNorm2d
            from normsmith.ops import explain
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for layer, x in ((BatchNorm1d(3), torch.randn(8, 3)), (BatchNorm2d(3), torch.randn(8, 3, 4, 4))):
                    for dtype in (torch.float32, torch.float16):
                        layer(x.to(dtype).requires_grad_()).sum().backward()
                        layer.eval()(x.to(dtype))
                        layer.train()
            assert layer.num_batches_tracked == 2
            print(*(str(warning.message) for warning in caught), sep="\\n")
            print(explain(x))
        """
        warning, *explained = python(code)[0].splitlines()
        assert "pip install numba" in warning
        assert explained[0].startswith("numba: numba cannot be imported")
        assert explained[-1] == "aten: taken"

    def test_import_does_not_ask_for_it(self):
        code = "import sys, normsmith; print(sorted(name for name in ('numba', 'llvmlite') if name in sys.modules))"
        assert python(code)[0] == "[]\n"


def test_layers_in_a_process_of_many_threads_of_torch(two_threads):
    """Torch's own operators go on working on the pool that is shared with them."""
    layer, x = BatchNorm1d(256), torch.randn(512, 256)
    for _ in range(20):
        y = layer(x @ x[:256])
        assert y.isfinite().all()
