"""Memory that kernels write to: huge pages for large outputs, and workspace that lasts from call to call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LARGE = 8 << 20
"""Bytes from which an output is written past the caches."""
HUGE = 2 << 20
"""Bytes of a huge page, and from which an output's memory is asked for in such pages."""
_PAGE = 4096
_HUGEPAGE = 14


def like(x: Tensor) -> Tensor:
    """New memory for an output with the strides of `x`; from 2 MiB on in huge pages where the system can."""
    out = torch.empty_like(x)
    if out.nbytes >= HUGE:
        ask_for_huge_pages(out)
    return out


def ask_for_huge_pages(out: Tensor) -> None:
    """Map new memory in huge pages, where the system can."""
    _advise()(out.data_ptr(), out.nbytes)


def lasting(*size: int, dtype: torch.dtype) -> Tensor:
    """New memory that outlives a call: made in inference mode, it may still be written to in training."""
    with torch.inference_mode(False):
        return torch.empty(*size, dtype=dtype, device="cpu")


@cache
def _advise() -> Callable[[int, int], None]:
    """`madvise` for the whole pages of an address and a size; does nothing where the system has no such call."""
    try:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
    except (AttributeError, OSError, TypeError):
        return lambda address, size: None
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def advise(address: int, size: int) -> None:
        start = -(-address // _PAGE) * _PAGE
        madvise(start, (address + size - start) // _PAGE * _PAGE, _HUGEPAGE)  # advice: may be refused

    return advise
