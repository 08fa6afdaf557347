"""Large outputs: huge pages for fresh memory, stores that pass the caches."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LARGE = 8 << 20
"""Bytes from which an output is streamed past the caches, and its memory advised."""
_PAGE = 4096
_HUGEPAGE = 14


def like(x: Tensor) -> Tensor:
    """Memory for an output that lies as `x` does; faults in by huge pages where it is large."""
    out = torch.empty_like(x)
    if out.nbytes >= LARGE:
        _advise()(out.data_ptr(), out.nbytes)
    return out


@cache
def _advise() -> Callable[[int, int], None]:
    try:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
    except (AttributeError, OSError, TypeError):
        return lambda address, size: None
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def advise(address: int, size: int) -> None:
        start = -(-address // _PAGE) * _PAGE
        madvise(start, (address + size - start) // _PAGE * _PAGE, _HUGEPAGE)  # advice: may be refused

    return advise
