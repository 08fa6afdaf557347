"""Who is timed: ours, torch's ways to the same result, and copies of the same bytes."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import EPS, Case, Inputs
from normsmith.ops import Renorm, Running, batch_norm
from normsmith.ops.cpu import memory, prepared
from normsmith.ops.prepared import prepare

R_MAX, D_MAX = 3.0, 5.0
Forward = Callable[[Inputs], Tensor]
Body = Callable[[], object]


def _options(case: Case) -> dict[str, Any]:
    return {
        "activation": "relu" if "relu" in case.op else None,
        "renorm": Renorm(R_MAX, D_MAX) if case.op == "renorm" else None,
    }


def ours(case: Case) -> Forward:
    """The op with what the case fuses into it."""
    options = _options(case)
    return lambda i: batch_norm(
        i.x, i.mean, i.var, i.weight, i.bias, residual=i.residual, mask=i.mask, **options
    )


def eager(i: Inputs) -> Tensor:
    """torch's batch norm."""
    return F.batch_norm(i.x, i.mean, i.var, i.weight, i.bias, True, 0.1, EPS)


def separate(i: Inputs) -> Tensor:
    """torch's batch norm, the sum and ReLU, one after the other."""
    return _separate(i.x, i.mean, i.var, i.weight, i.bias, i.residual)


def _separate(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None
) -> Tensor:
    y = F.batch_norm(x, mean, var, weight, bias, True, 0.1, EPS)
    return F.relu(y if residual is None else y + residual)


def inductor(i: Inputs) -> Forward:
    """The same, compiled anew for these inputs, forward and backward.

    Raises:
        RuntimeError: it does not compile here, as without a C++ compiler.
    """
    torch._dynamo.reset()  # the compiler gives up on a function after eight shapes
    compiled = torch.compile(_separate, dynamic=False)

    def forward(i: Inputs) -> Tensor:
        return compiled(i.x, i.mean, i.var, i.weight, i.bias, i.residual)

    torch.autograd.grad(forward(i), i.leaves, i.g)
    return forward


def onednn(i: Inputs) -> Tensor:
    """oneDNN's batch norm, by way of its own layout and back."""
    y = F.batch_norm(i.x.to_mkldnn(), i.mean, i.var, i.weight, i.bias, True, 0.1, EPS)
    return y.to_dense()


def composed(i: Inputs) -> Tensor:
    """Batch renormalization from torch's operations, as it is written today."""
    dims = [0, *range(2, i.x.ndim)]
    view = (1, -1, *[1] * (i.x.ndim - 2))
    mean, var = i.x.mean(dims), i.x.var(dims, unbiased=False)
    std, running = (var + EPS).sqrt(), (i.var + EPS).sqrt()
    r = (std.detach() / running).clamp(1 / R_MAX, R_MAX)
    d = ((mean.detach() - i.mean) / running).clamp(-D_MAX, D_MAX)
    hat = (i.x - mean.view(view)) / std.view(view) * r.view(view) + d.view(view)
    y = hat * i.weight.view(view) + i.bias.view(view)
    i.mean.lerp_(mean.detach(), 0.1)
    i.var.lerp_(i.x.detach().var(dims), 0.1)
    return y


def candidates(case: Case) -> dict[str, Forward]:
    """Ours first, then those that need no compiler."""
    if case.op == "bn":
        return {"ours": ours(case), "torch": eager} | ({"oneDNN": onednn} if _has_onednn(case) else {})
    if case.op == "renorm":
        return {"ours": ours(case), "our BN": ours(case._replace(op="bn")), "composed": composed}
    if case.op == "masked":
        without = ours(case)
        return {"ours": without, "unmasked": lambda i: without(i._replace(mask=None))}
    return {"ours": ours(case), "torch": separate}


def _has_onednn(case: Case) -> bool:
    return torch.backends.mkldnn.is_available() and len(case.shape) == 4 and case.dtype == torch.float32


def in_other_layout(case: Case, i: Inputs) -> dict[str, tuple[Forward, Inputs]]:
    """Torch on the same images in the other memory layout, which a user is free to choose; nothing for rows.

    A user of torch chooses once for a network, so that no copy from one layout to the other is timed.
    """
    if len(case.shape) != 4 or case.op not in ("bn", "bn+relu", "bn+add+relu"):
        return {}
    there = torch.contiguous_format if case.channels_last else torch.channels_last

    def moved(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or tensor.ndim != 4:
            return tensor
        copy = tensor.detach().contiguous(memory_format=there)
        return copy.requires_grad_(tensor.requires_grad)

    name = "torch NCHW" if case.channels_last else "torch NHWC"
    return {name: (eager if case.op == "bn" else separate, Inputs(*map(moved, i)))}


class Kernels:
    """Our forward and backward, called as a layer calls them, into buffers that are there: `y`, `dx`, `dresidual`."""

    def __init__(self, case: Case, i: Inputs) -> None:
        self.x, self.residual, self.g = i.x.detach(), None if i.residual is None else i.residual.detach(), i.g
        self.affine, self.running = (i.weight.detach(), i.bias.detach()), Running(i.mean, i.var, None, None)
        self.y, self.dx, self.dresidual = (torch.zeros_like(self.x) for _ in range(3))
        options, added = _options(case), self.residual is not None
        self.renorm = options["renorm"]
        call = prepare(self.x, *self.affine, self.running, added=added, eps=EPS, **options)
        if not isinstance(call, prepared.Prepared):
            raise RuntimeError(f"our kernels do not serve {case}")
        self.call = call
        self.forward()

    def forward(self) -> None:
        """Output into `y`."""
        with _Into(self.y):
            _, *self.kept = self.call.forward(
                self.x, *self.affine, self.residual, self.running, self.renorm, keep=True
            )

    def backward(self) -> None:
        """Gradients into `dx` and `dresidual`."""
        with _Into(self.dx, self.dresidual):
            self.call.backward(self.g, self.x, *self.kept, True)


class _Into:
    """Within it our kernels write to these buffers, one after the other, instead of new ones."""

    def __init__(self, *buffers: Tensor) -> None:
        self.shape, self.buffers = buffers[0].shape, iter(buffers)

    def __enter__(self) -> None:
        self.empty = prepared.empty_on_cpu
        prepared.empty_on_cpu = self._buffer  # type: ignore[assignment]

    def _buffer(self, shape: tuple[int, ...], *place: Any) -> Tensor:
        return next(self.buffers) if shape == self.shape else self.empty(shape, *place)

    def __exit__(self, *error: object) -> None:
        prepared.empty_on_cpu = self.empty  # type: ignore[assignment]


class Native:
    """torch's kernels: the forward into buffers that are there already, the backward, which has no such form, not."""

    def __init__(self, i: Inputs) -> None:
        channels = i.x.shape[1]
        self.x, self.g, self.y = i.x.detach(), i.g, torch.zeros_like(i.x)
        self.affine, self.running = (i.weight.detach(), i.bias.detach()), (i.mean, i.var)
        self.saved = (torch.empty(channels), torch.empty(channels))
        self.forward()

    def forward(self) -> None:
        """Output into `y`."""
        mean, inv_std = self.saved
        torch.ops.aten.native_batch_norm.out(
            self.x,
            *self.affine,
            *self.running,
            True,
            0.1,
            EPS,
            out=self.y,
            save_mean=mean,
            save_invstd=inv_std,
        )

    def backward(self) -> None:
        """Gradients into new memory."""
        self.dx, *_ = torch.ops.aten.native_batch_norm_backward(
            self.g, self.x, self.affine[0], *self.running, *self.saved, True, EPS, [True, True, True]
        )


def copies(x: Tensor) -> dict[str, Body]:
    """torch's copy, and one with non-temporal stores where the batch is large."""
    y = torch.zeros_like(x)
    bodies: dict[str, Body] = {"copy": lambda: y.copy_(x)}
    if x.nbytes >= memory.LARGE:
        bodies["NT copy"] = lambda: stream_copy(x, y)
    return bodies


def stream_copy(x: Tensor, y: Tensor) -> None:
    """Copy whole pieces of 256 bytes past the caches, on torch's threads."""
    from normsmith.ops.cpu.kernels import arguments as slot
    from normsmith.ops.cpu.threads import launch

    block = (ctypes.c_int64 * slot.SLOTS)()
    block[slot.X], block[slot.Y], block[slot.THREADS] = x.data_ptr(), y.data_ptr(), 1
    block[slot.SELF], block[slot.STREAM], block[slot.ROWS] = ctypes.addressof(block), 1, x.nbytes // 256
    launch(*_copier(), ctypes.addressof(block), torch.get_num_threads())


@cache
def _copier() -> tuple[int, Any]:
    from numba import carray, cfunc, types
    from numpy import float32, int64

    from normsmith.ops.cpu.kernels import arguments as slot
    from normsmith.ops.cpu.kernels.compile import as_function
    from normsmith.ops.cpu.kernels.lanes import fence
    from normsmith.ops.cpu.kernels.sharing import share_of
    from normsmith.ops.cpu.kernels.vectors import operation

    def step(vectors, coefficients, sums):
        vectors.write(slot.Y, vectors.read(slot.X, vectors.zero))
        return sums

    on_four = operation(step, (), (), by_column=False).on_four

    @cfunc(types.void(types.voidptr), nopython=True)
    def kernel(address):
        a = carray(address, slot.SLOTS, int64)
        first, last = share_of(a, a[slot.ROWS])
        quarter = last - first  # of the thread's bytes, in lines of 64 bytes
        on_four(
            a[slot.SELF], 256 * first, 64 * quarter, 16 * quarter, 0, 0, 0, 0, 0, 0, None, None, float32, float32
        )  # fmt: skip
        fence()

    _KEEP.append(kernel)
    return kernel.address, as_function(kernel.address)


_KEEP: list[Any] = []


def keep_pages() -> bool:
    """Let freed memory stay with the process from now on, so that who cannot be given buffers finds pages there.

    For torch's backward; True where the C library knows how (glibc).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4
    return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, -1))
