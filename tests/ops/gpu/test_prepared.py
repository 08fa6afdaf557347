"""Prepared calls start the same launches as others, with the same arguments; known without a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from normsmith.ops import ACTIVATIONS, Renorm, Running
from normsmith.ops.call import Call, Update

triton = pytest.importorskip("triton", minversion="3.6")  # older ones the row refuses
pytestmark = pytest.mark.compiles  # without the shape checker, which would rewrite the kernels

Started = list[tuple[str, tuple[int, ...], list[Any]]]


class Device:
    """A driver that compiles for an H200 and writes down what it is to start."""

    def __init__(self) -> None:
        self.started: Started = []
        self.utils = SimpleNamespace(
            load_binary=lambda name, *_: (name, name, 0, 0, 1024),
            get_device_properties=lambda device: {"max_shared_mem": 2**18},
        )

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """What starts a kernel."""

        def start(*given: Any) -> None:
            programs, _, (name, *_), arguments = given[:3], given[3], given[4:9], given[9:]
            addresses = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
            self.started.append((name, programs, addresses))

        return start

    def get_current_device(self) -> int:
        """Kernels are cached by device."""
        return 1001

    def get_current_stream(self, device: int = 0) -> int:
        """Of no device."""
        return 0

    def get_current_target(self) -> Any:
        """What to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def device(monkeypatch):
    from triton.runtime import driver

    from normsmith.ops.gpu import launch

    held = []  # no address is given twice

    def holding(make):
        def made(*arguments, **options):
            held.append(make(*arguments, **options))
            return held[-1]

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, holding(getattr(torch, name)))
    found = Device()
    monkeypatch.setattr(driver, "_active", found)
    monkeypatch.setattr(launch, "processors", lambda device: 132)
    return found


def same(one: Started, other: Started, known: list[Tensor]) -> bool:
    """Whether both are the same launches, but for the addresses of what each allocates."""

    def plain(started: Started) -> list[Any]:
        addresses = {each.data_ptr(): -1 - index for index, each in enumerate(known)}
        return [
            (name, programs, [_named(each, addresses) for each in arguments])
            for name, programs, arguments in started
        ]

    return plain(one) == plain(other)


def _named(argument: Any, addresses: dict[int, int]) -> Any:
    if type(argument) is int and argument > 2**20:
        return addresses.setdefault(argument, len(addresses))
    return argument


CALLS = {
    "in one launch": ((60, 100), {}),
    "in three": ((64, 8, 16, 16), {}),
    "three, odd channels": ((4096, 7), {"activation": ACTIVATIONS["silu"]}),
    "relu after a residual": ((64, 16), {"activation": ACTIVATIONS["relu"]}),
    "renorm": ((60, 100), {"renorm": Renorm(3.0, 5.0)}),
    "by running statistics": ((60, 100), {"by_batch": False}),
}


@pytest.mark.parametrize("name", CALLS)
def test_launches_are_those_of_other_calls(name, device, monkeypatch):
    from normsmith.ops.gpu import backend, plan, prepared

    monkeypatch.setattr(plan, "SMALL", 2**12)
    plan.plan.cache_clear()
    shape, options = CALLS[name]
    call, residual = Call(**options), torch.randn(shape) if "residual" in name else None
    update = Update(0.1, True) if call.by_batch else None
    x, g = torch.randn(shape), torch.randn(shape)
    weight, bias, mean, var = torch.rand(4, 4 * shape[1])[:, : shape[1]].unbind()
    running = Running(mean, var, None, torch.tensor(0))
    row = backend.Triton()
    monkeypatch.setattr(prepared, "current_device", lambda: -1)  # of tensors in the memory of the processor
    _, kept, _ = row.forward(x, weight, bias, residual, running, call, update)
    row.backward(g, x, residual, kept, call, True)
    want, device.started = device.started, []
    ready = prepared.prepare(x, prepared.Vectors(weight, bias, running), residual is not None, call, update)
    for _ in range(2):
        device.started = []
        y, statistics, bits = ready.forward(x, weight, bias, residual, running, call.renorm, True)
        dx, dz, dgamma, dbeta = ready.backward(g, x, statistics, bits, True)
        known = [
            each for each in (x, g, residual, weight, bias, mean, var, running.batches) if each is not None
        ]
        assert same(device.started, want, known)
        assert [each.shape for each in (y, dx, dgamma, dbeta)] == [x.shape, x.shape, shape[1:2], shape[1:2]]
        assert (dz is None) == (residual is None)
    plan.plan.cache_clear()
