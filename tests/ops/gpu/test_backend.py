"""The row `triton` on a machine without a GPU: which calls it would serve, and why not others."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

from normsmith.ops.activation import Activation
from normsmith.ops.call import Call
from normsmith.ops.gpu import backend


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

    def test_a_triton_that_is_too_old(self, monkeypatch):
        triton = pytest.importorskip("triton")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(triton, "__version__", "3.2.0")
        backend._unfit.cache_clear()
        reason = backend._unfit(torch.device("cuda", 0))
        backend._unfit.cache_clear()
        assert reason == "needs Triton 3.6 or newer, got 3.2.0"

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
        for other in (torch.randn(4, 3, dtype=torch.cfloat).conj().imag, torch._efficientzerotensor((4, 3))):
            assert "its clone() does" in self.row.supports(other, Call())
        assert "got Strange" in self.row.supports(torch.randn(4, 3).as_subclass(Strange), Call())
        assert self.row.supports(Parameter(torch.randn(4, 3)), Call()) is None


class Strange(torch.Tensor):
    """A tensor whose memory may mean something else."""
