"""Launches whose kernels are compiled already: started with addresses and numbers, past Triton's look at each argument.

Triton compiles a kernel anew for every dtype and alignment of its tensors, and for some values of its numbers. Which
variant serves a launch it finds out at every launch, from all arguments: 20 to 60 µs for kernels with as many arguments
as ours, as long as a small batch norm takes on the device. Where it is known that nothing of that changes, the variant
can be kept, and starting it costs some 5 µs. Needs the attributes `run`, `function` and `packed_metadata` of Triton's
`CompiledKernel`, whose launcher takes addresses for tensors; in versions that were not tried nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.runtime import JITFunction, driver

from normsmith.ops.gpu.forward_kernels import apply
from normsmith.ops.gpu.launch import Launch

ALIGNED = 16
"""Bytes: kernels are compiled for addresses that are multiples of it, and for others."""
_TRIED = ("3.6", "3.7")
"""Versions of Triton whose launcher is known."""


def can_be_kept() -> bool:
    """Whether compiled kernels can be started without Triton's look at the arguments: not where it interprets."""
    return isinstance(apply, JITFunction) and triton.__version__.rpartition(".")[0] in _TRIED


class Pointer:
    """What stands for a tensor while a kernel is compiled: its dtype, and an address aligned as all later ones."""

    __slots__ = ("address", "dtype")

    def __init__(self, dtype: torch.dtype, address: int = 0) -> None:
        self.dtype, self.address = dtype, address

    def data_ptr(self) -> int:
        """The address, as Triton asks for it."""
        return self.address


class Compiled:
    """A launch whose kernel is compiled for arguments of known kinds.

    Args:
        launch: what to start.
        kinds: what stands for each argument that the launch names: a tensor that stays where it is, a number that
            stays the same, None; or, for what differs from call to call, a `Pointer` or a number.
        differing: the names of those, in the order in which `start` is given their addresses and values.
    """

    __slots__ = ("_compiled", "_constants", "_launch", "_pick", "_programs", "_settings", "_together")

    def __init__(self, launch: Launch, kinds: Mapping[str, Any], differing: Sequence[str]) -> None:
        kernel = launch.kernel
        arguments = [kinds[each] if type(each) is str else each for each in launch.arguments]
        self._compiled = kernel.warmup(
            *arguments, grid=(launch.programs,), num_warps=launch.warps, **launch.constants
        )
        self._programs = launch.programs
        self._launch, self._settings, self._together = _launcher(self._compiled)
        places: list[int] = []
        constants: list[Any] = []
        for name, value in zip(launch.arguments, arguments, strict=True):
            if type(name) is str and name in differing and value is not None:
                places.append(differing.index(name))
                continue
            places.append(len(differing) + len(constants))
            constants.append(value.data_ptr() if isinstance(value, Tensor) else value)
        for name in kernel.arg_names[len(arguments) :]:
            places.append(len(differing) + len(constants))
            constants.append(launch.constants[name])
        self._pick, self._constants = itemgetter(*places), tuple(constants)

    def start(self, stream: int, values: tuple[Any, ...]) -> None:
        """Launch on a stream of the current device."""
        arguments, compiled = self._pick(values + self._constants), self._compiled
        before, after = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
        if before.calls or after.calls:  # a profiler listens
            seen = compiled.launch_metadata((self._programs,), stream, *arguments)
            compiled.run(
                self._programs, 1, 1, stream, compiled.function, compiled.packed_metadata, seen, before, after,
                *arguments,
            )  # fmt: skip
        elif self._together:
            self._launch(self._programs, 1, 1, stream, *self._settings, arguments)
        else:
            self._launch(self._programs, 1, 1, stream, *self._settings, *arguments)


def _launcher(compiled: Any) -> tuple[Callable[..., None], tuple[Any, ...], bool]:
    """What starts a compiled kernel, what it takes between stream and arguments, and whether these are one tuple."""
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    launch, nothing = getattr(run, "launch", None), (None, None, None)
    if launch is None or run.global_scratch_size or run.profile_scratch_size:
        return run, (function, metadata, *nothing), False
    ways = (function, run.launch_cooperative_grid, run.launch_pdl)
    if triton.__version__.startswith("3.6."):
        return launch, (*ways, None, None, metadata, *nothing), False
    return launch, (*ways, metadata, *nothing, None, None, run.arg_annotations, run.kernel_signature), True


def current_device() -> int:
    """The number of the current device."""
    device: int = driver.active.get_current_device()
    return device


def current_stream() -> Callable[[int], int]:
    """What tells the handle of the current stream of a device, by the device's number."""
    stream: Callable[[int], int] = driver.active.get_current_stream
    return stream
