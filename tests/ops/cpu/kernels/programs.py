"""Small programs made of parts of kernels, compiled in a second, on a block of slots or on tensors' addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from numba import carray, cfunc, types
from numpy import float64, int64

from normsmith.ops.cpu.kernels.arguments import SLOTS
from normsmith.ops.cpu.kernels.lanes import FAST


def program(body: Any) -> Callable[[Any], None]:
    """`body(a, f)`, with the integers and the floats of a block of slots, as a function of such a block."""

    @cfunc(types.void(types.voidptr), nopython=True, error_model="numpy", fastmath=FAST)
    def compiled(address):
        body(carray(address, SLOTS, int64), carray(address, SLOTS, float64))

    def run(block: Any) -> None:
        compiled.ctypes(ctypes.addressof(block))

    return run


def block_of(**slots: Any) -> Any:
    """A block of slots: numbers and addresses by the names of `arguments`; all others are 0."""
    from normsmith.ops.cpu.kernels import arguments

    block = (ctypes.c_int64 * SLOTS)()
    floats = (ctypes.c_double * SLOTS).from_buffer(block)
    for name, value in slots.items():
        target = floats if isinstance(value, float) else block
        target[getattr(arguments, name)] = value
    return block
