"""Calls of the GPU kernels that are prepared once and made again and again, for batches of one shape.

Small batches take less time on the device than the processor spends on what is decided about them. A prepared call
keeps its launches (`compiled.py`); each call allocates the outputs and starts them with their addresses. Launches and
results are those of `forward.normalize`, `forward.infer` and `backward.differentiate`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from normsmith.ops.call import Buffers, Call, Update, as_before
from normsmith.ops.gpu import backward, forward, launch
from normsmith.ops.gpu.compiled import (
    ALIGNED,
    Compiled,
    Pointer,
    can_be_kept,
    current_device,
    current_stream,
)
from normsmith.ops.gpu.plan import matrix
from normsmith.ops.resolve import Renorm, Resolved, Running

_ROWS = {"means": 0, "low": 1, "inv_std": 2, "scales": 3, "shifts": 4, "r": 6, "d": 7}
"""Which row of what a training forward writes of its batch is what to the backward; there are ten."""
_ROWS_OF_RUNNING = {"means": 0, "inv_std": 1, "scales": 2, "shifts": 3}
"""The same where the running statistics normalised."""
_FORWARD = ("x", "z", "y", "bits", "kept", "parts", "r_max", "d_max", "r_max_at", "d_max_at")
_BACKWARD = ("g", "x", "bits", "dx", "dz", "grads", "parts", "offsets", "slopes")
"""What differs from call to call beside those rows, in the order in which launches are given it."""


class Vectors(NamedTuple):
    """γ, β and the running statistics of a prepared call, which stay where they are."""

    weight: Tensor | None
    bias: Tensor | None
    running: Running | None


class _Limits(NamedTuple):
    """The bounds of renorm, as numbers or as the addresses of numbers on the device, and what stands for these."""

    values: tuple[float | int | None, ...]
    kinds: tuple[tuple[torch.dtype, int] | None, ...]


class Prepared:
    """A call that was checked and whose kernels are compiled, for batches of the same shape, strides and dtype.

    Args:
        x: such a batch.
        vectors: γ, β and the running statistics.
        added: whether calls have a residual, laid out as the batch and of its dtype.
        call: how to normalise.
        update: how the running statistics move.
    """

    is_bound = True

    def __init__(self, x: Tensor, vectors: Vectors, added: bool, call: Call, update: Update | None) -> None:
        self.call, self._added, self.like = call, added, torch.empty_like(x, device="meta")
        self._device, self._one_of_many = x.get_device(), torch.cuda.device_count() > 1
        self._stream, self._cut = current_stream(), launch.geometry(x, None, None).cut
        self._act = launch.name_of(call.activation)
        running, plan, channels = vectors.running, self._cut.plan, self._cut.matrix.channels
        self._bits = _room(x, torch.uint8, x.numel() // 8 if added and self._cut.keeps_bits(self._act) else 0)
        entries = 0 if plan.once else plan.splits * self._cut.width
        self._parts = _room(x, torch.float32, 4 * entries if call.by_batch else 0)
        self._sums = _room(x, torch.float32, 2 * entries)
        self._kept = x.new_empty((10 if call.by_batch else 4, channels), dtype=torch.float32)
        self._grads = x.new_empty((4, channels), dtype=torch.float32)
        rows = _ROWS if call.by_batch else _ROWS_OF_RUNNING
        self._offsets = {
            name: row * 4 * channels for name, row in rows.items() if call.renorm or name not in "rd"
        }
        self._places = tuple(self._offsets.values())
        self._moved = (
            [] if running is None or update is None else [each for each in running if each is not None]
        )
        self._fixed: dict[str, Any] = {
            **dict.fromkeys(("w", "counts", "enough", "by_batch", "low", "r", "d", "z")),
            **forward.vectors(*vectors),
            "batches": None if running is None or update is None else running.batches,
            "eps": call.eps,
            "momentum": 0.0 if update is None else update.momentum,
            "count": float(x.numel() // channels) if call.by_batch else 1.0,
        }
        skip = update is not None and update.skip_nonfinite
        self._settling = forward.Settling(call.renorm is not None, update is not None, skip)
        self._forwards: dict[Any, list[Compiled]] = {}
        self._backwards: dict[Any, list[Compiled]] = {}

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running: Buffers | None,
        renorm: Renorm | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The output, and what `backward` needs: statistics, and the bits of a ReLU; only to be used if `keep`.

        γ, β and the running statistics are those for which the launches were compiled.
        """
        if self._one_of_many and current_device() != self._device:
            with torch.cuda.device(self._device):
                return self.forward(x, weight, bias, residual, running, renorm, keep)
        # memory of its own for each call: a CUDA graph that captures it, and another stream, read it later
        y, kept, bits, parts, z = torch.empty_like(x), torch.empty_like(self._kept), None, None, None
        batch, limits = x.data_ptr(), _NO_LIMITS if renorm is None else _limits(renorm, x.device)
        if self._bits is not None and keep:
            bits = torch.empty_like(self._bits)
        if self._parts is not None:
            parts = torch.empty_like(self._parts)
        if residual is not None:
            z = residual.data_ptr()
        key = batch % ALIGNED, None if z is None else z % ALIGNED, bits is None, limits.kinds
        launches = self._forwards.get(key)
        if launches is None:
            launches = self._forwards[key] = self._compile_forward(*key, limits)
        base = kept.data_ptr()
        values = (
            *(batch, z, y.data_ptr(), None if bits is None else bits.data_ptr(), base),
            *(None if parts is None else parts.data_ptr(), *limits.values),
            *[base + place for place in self._places],
        )
        stream = self._stream(self._device)
        for each in launches:
            each.start(stream, values)
        if self._moved:
            increment_version(self._moved)
        return y, kept, bits

    def backward(
        self, g: Tensor, x: Tensor, statistics: Tensor, bits: Tensor | None, wants_x: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """The gradients of x, of the residual, and of γ and β."""
        if self._one_of_many and current_device() != self._device:
            with torch.cuda.device(self._device):
                return self.backward(g, x, statistics, bits, wants_x)
        grads, dx, dz, sums = torch.empty_like(self._grads), None, None, None
        if wants_x:
            dx = torch.empty_like(x)
            if self._added:
                dz = g if bits is None else torch.empty_like(x)
        if self._sums is not None:
            sums = torch.empty_like(self._sums)
        incoming, batch, base, affine = g.data_ptr(), x.data_ptr(), statistics.data_ptr(), grads.data_ptr()
        key = incoming % ALIGNED, batch % ALIGNED, bits is None, wants_x
        launches = self._backwards.get(key)
        if launches is None:
            launches = self._backwards[key] = self._compile_backward(*key)
        row = affine + 2 * 4 * self._cut.matrix.channels
        values = (
            *(
                incoming,
                batch,
                None if bits is None else bits.data_ptr(),
                None if dx is None else dx.data_ptr(),
            ),
            *(None if dz is None else dz.data_ptr(), affine, None if sums is None else sums.data_ptr()),
            *(row, row + 4 * self._cut.matrix.channels, *[base + place for place in self._places]),
        )
        stream = self._stream(self._device)
        for each in launches:
            each.start(stream, values)
        dgamma, dbeta, _, _ = grads.unbind()
        return dx, dz, dgamma, dbeta

    def fits(self, g: Tensor, x: Tensor) -> bool:
        """Nothing is known: `fitted` looks."""
        return False

    def fitted(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and batch with the strides and the dtype of the forward's batch, copied if need be."""
        x = as_before(x, self.like)
        return launch.laid_out_like(x, g if g.dtype is x.dtype else g.to(x.dtype)), x

    def resolved(self, statistics: Tensor) -> Resolved:
        """What normalised, of the statistics that a forward kept."""
        channels = self._cut.matrix.channels
        rows = {
            name: statistics[place // (4 * channels)].view(1, -1) for name, place in self._offsets.items()
        }
        mean, low, inv_std, r, d = (rows.get(name) for name in ("means", "low", "inv_std", "r", "d"))
        assert mean is not None
        assert inv_std is not None
        return Resolved(mean, low, inv_std, r, d, self.call.by_batch)

    def _compile_forward(
        self, batch: int, z: int | None, no_bits: bool, kinds_of_limits: tuple[Any, ...], limits: _Limits
    ) -> list[Compiled]:
        """The launches of a forward, for the alignment of the batch and of the residual, and for kinds of bounds."""
        dtype, cut = self.like.dtype, self._cut
        kinds = {
            **self._fixed, **self._pointers(), "x": Pointer(dtype, batch), "y": Pointer(dtype),
            "z": None if z is None else Pointer(dtype, z), "bits": None if no_bits else Pointer(torch.uint8),
            "kept": Pointer(torch.float32), "parts": Pointer(torch.float32),
            "r_max": limits.values[0], "d_max": limits.values[1],
            **{name: kind and Pointer(*kind) for name, kind in zip(_FORWARD[-2:], kinds_of_limits, strict=True)},
        }  # fmt: skip
        if self.call.by_batch:
            launches = forward.training(cut, self._act, False, self._settling)
        else:
            launches = (forward.applying(cut, self._act, by_batch=False),)
        return [Compiled(each, kinds, (*_FORWARD, *self._offsets)) for each in launches]

    def _compile_backward(self, g: int, batch: int, no_bits: bool, wants_x: bool) -> list[Compiled]:
        """The launches of a backward, for the alignment of the gradient and of the batch."""
        dtype, cut, by_batch = self.like.dtype, self._cut, self.call.by_batch
        gradient = Pointer(dtype) if wants_x else None
        row, single = 4 * cut.matrix.channels, torch.float32
        kinds = {
            **self._fixed, **self._pointers(), "g": Pointer(dtype, g), "x": Pointer(dtype, batch),
            "bits": None if no_bits else Pointer(torch.uint8), "dx": gradient, "dz": None if no_bits else gradient,
            "grads": Pointer(single), "parts": Pointer(single),
            "offsets": Pointer(single, 2 * row) if by_batch else None,
            "slopes": Pointer(single, 3 * row) if by_batch else None,
        }  # fmt: skip
        names = (*_BACKWARD, *self._offsets)
        if cut.plan.once:
            return [Compiled(backward.at_once(cut, self._act, by_batch), kinds, names)]
        sums = backward.in_parts(cut, self._act, by_batch, decide=True)
        launches = [Compiled(each, kinds | {"dz": None}, names) for each in sums]
        if wants_x:
            launches.append(Compiled(backward.last(cut, self._act, by_batch), kinds, names))
        return launches

    def _pointers(self) -> dict[str, Pointer]:
        """What stands for the rows of statistics."""
        return {name: Pointer(torch.float32, place) for name, place in self._offsets.items()}


def _room(x: Tensor, dtype: torch.dtype, size: int) -> Tensor | None:
    """What memory of so many numbers is like, without having it: `empty_like` is the fastest way to ask for memory."""
    return x.new_empty(1, dtype=dtype).expand(size) if size else None


_NO_LIMITS = _Limits((1.0, 0.0, None, None), (None, None))


def _limits(renorm: Renorm, device: torch.device) -> _Limits:
    """The bounds of this call."""
    bounds = forward.bounds(renorm, device)
    places = [bounds["r_max_at"], bounds["d_max_at"]]
    kinds = tuple(
        (place.dtype, place.data_ptr() % ALIGNED) if isinstance(place, Tensor) else None for place in places
    )
    addresses = (place.data_ptr() if isinstance(place, Tensor) else None for place in places)
    return _Limits((bounds["r_max"], bounds["d_max"], *addresses), kinds)  # type: ignore[arg-type]


def prepare(x: Tensor, vectors: Vectors, added: bool, call: Call, update: Update | None) -> Prepared | None:
    """Prepare a call for batches like `x`, with a residual if `added`; None where calls need more than addresses."""
    weight, bias, running = vectors
    special = [part is not None for part in (call.valid, call.weights, call.groups, call.sync)]
    layout, act = matrix(x), launch.name_of(call.activation)
    if any(special) or layout is None or act is None or not can_be_kept():
        return None
    if added and act != "none" and not launch.geometry(x, None, None).cut.keeps_bits(act):
        return None  # the backward needs the residual, and is not given it
    held = [each for each in (weight, bias, *(running or ())[:3]) if each is not None]
    if not all(each.is_contiguous() and each.device == x.device for each in held):
        return None
    if any(each is not None and each.dtype != torch.float32 for each in (weight, bias)):
        return None  # whose gradients have another dtype than the sums
    if update is not None and (running is None or not forward.is_plain(running)):
        return None
    return Prepared(x, vectors, added, call, update)
