"""The least time a batch norm can take: its bytes, at the speed of a copy."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.measure import Times
from benchmarks.protocol import Ratio, spread
from normsmith.ops.cpu.layout import layout_of

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_ASSUMED = {2: 2**20, 3: 2**25}


def cache_bytes(level: int) -> int:
    """Of the second cache of a core, or the last one; 1 MiB and 32 MiB where the system does not say."""
    size = _CACHES / f"index{level}" / "size"
    return int(size.read_text().strip().removesuffix("K")) * 1024 if size.exists() else _ASSUMED[level]


def resident(case: Case, part: str) -> bool:
    """Whether what is read twice is still in a cache the second time.

    That is a slice of channels, which a core works on alone, or the whole batch where rows are shared out.
    """
    memory = torch.channels_last if case.channels_last else torch.contiguous_format
    layout = layout_of(torch.empty(case.shape, device="meta").contiguous(memory_format=memory))
    assert layout is not None  # contiguous
    read = case.dtype.itemsize * (2 if part == "backward" else 1)
    if layout.name == "columns" and layout.pieces == 0:
        return read * torch.Size(case.shape).numel() <= cache_bytes(3)
    across = layout.strip if layout.name == "columns" else layout.positions
    return read * layout.samples * across <= cache_bytes(2)


def passes(case: Case, part: str) -> float:
    """Times that the bytes of a batch are moved: read, read again where they are not resident, written."""
    again = 0 if resident(case, part) else 1
    bits = 1 / 8 / case.dtype.itemsize
    if "add" in case.op:
        return (3 + bits + again) if part == "forward" else (4 + bits + again * (2 + bits))
    return (2 + again) if part == "forward" else (3 + 2 * again)


def over_limit(case: Case, part: str, times: Times) -> Ratio:
    """Our time over the least possible one; a copy moves the batch twice, the faster of two sets the speed."""
    copy = min((times[name] for name in ("copy", "NT copy") if name in times), key=statistics.median)
    least = passes(case, part) / 2
    return spread([ours / (least * copied) for ours, copied in zip(times["ours"], copy, strict=True)])
