"""Kernels on several threads: torch's own, a pool of ours, threads of the caller, and processes that were forked."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.ops.cpu.cases import DTYPES, EACH_OPTION, SHAPES, everything, make, python

from normsmith.layers import BatchNorm1d
from normsmith.ops.cpu import threads
from normsmith.ops.cpu.kernels import arguments as slot


@pytest.mark.parametrize("option", ["residual, relu", "ghost, mask, residual, relu", "renorm", "running"])
@pytest.mark.parametrize("shape", SHAPES)
def test_two_threads_agree_with_one(shape, option, two_threads):
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


def test_as_many_threads_as_torch_is_told(monkeypatch, two_threads):
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


@pytest.mark.parametrize("number", [1, 2])
def test_calls_from_eight_python_threads(number):
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
def test_own_threads_where_torchs_cannot_be_had(shape, monkeypatch, two_threads):
    case = make(shape, option="residual, relu")
    want = everything(*case)
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    for a, b in zip(everything(*case), want, strict=True):
        torch.testing.assert_close(a, b)
    assert any(thread.name.startswith("normsmith") for thread in threading.enumerate())


@pytest.mark.parametrize("setting", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}], ids=str)
def test_fewer_threads_than_asked_for_write_everything(setting):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
def test_fork_after_a_call_on_two_threads():
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
def test_loader_workers():
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


def test_layers_in_a_process_of_many_threads_of_torch(two_threads):
    """Torch's own operators go on working on the pool that is shared with them."""
    layer, x = BatchNorm1d(256), torch.randn(512, 256)
    for _ in range(20):
        y = layer(x @ x[:256])
        assert y.isfinite().all()


class TestNumber:
    """How many threads are asked for."""

    def test_is_what_torch_is_told_from_a_size_on(self, two_threads):
        assert threads.threads_for(threads.SERIAL_BELOW - 1) == 1
        assert threads.threads_for(threads.SERIAL_BELOW) == 2
        torch.set_num_threads(1)
        assert threads.threads_for(threads.SERIAL_BELOW) == 1

    def test_is_one_after_a_fork(self, monkeypatch, two_threads):
        monkeypatch.setattr(threads, "_forked", False)
        threads._after_fork()
        assert threads.threads_for(2**20) == 1


class TestLaunch:
    """With a function of Python that notes what it is given, in place of a kernel."""

    @pytest.fixture
    def block(self):
        return (ctypes.c_int64 * slot.SLOTS)(*range(100, 100 + slot.SLOTS))

    def test_on_one_thread_is_a_call(self, block, monkeypatch):
        monkeypatch.setattr(threads, "_openmp", lambda: pytest.fail("threads are started"))
        called = []
        threads.launch(0, called.append, ctypes.addressof(block), 1)
        assert called == [ctypes.addressof(block)]

    def test_on_own_threads_gives_each_its_number_and_a_copy_of_the_block(self, block, monkeypatch):
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        seen = []

        def run(address):
            slots = (ctypes.c_int64 * slot.SLOTS).from_address(address)
            seen.append((slots[slot.THREAD], slots[slot.THREADS], slots[slot.X]))

        threads.launch(0, run, ctypes.addressof(block), 3)
        assert sorted(seen) == [(number, 3, 100 + slot.X) for number in range(3)]
        assert block[slot.THREADS] == 100 + slot.THREADS

    def test_on_own_threads_raises_what_one_of_them_raises(self, block, monkeypatch):
        monkeypatch.setattr(threads, "_openmp", lambda: None)

        def run(address):
            if (ctypes.c_int64 * slot.SLOTS).from_address(address)[slot.THREAD] == 1:
                raise RuntimeError("in the second thread")

        with pytest.raises(RuntimeError, match="in the second thread"):
            threads.launch(0, run, ctypes.addressof(block), 2)

    def test_in_torchs_pool_is_told_how_threads_learn_their_number(self, block, monkeypatch):
        started = []

        def start(kernel, address, number, flags):
            told = (block[slot.GET_THREAD], block[slot.GET_THREADS], block[slot.BARRIER])
            started.append((kernel, number, *told))

        monkeypatch.setattr(threads, "_openmp", lambda: (start, 7, 8, 9))
        threads.launch(99, None, ctypes.addressof(block), 2)
        assert started == [(99, 2, 7, 8, 9)]
        assert block[slot.GET_THREAD] == block[slot.BARRIER] == 0  # for a later call on one thread
