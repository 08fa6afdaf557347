"""Running a kernel: on torch's own threads where its OpenMP library can be called, else on threads of ours.

`GOMP_parallel` of the library that torch has loaded starts a region on torch's pool in a microsecond. A second
OpenMP runtime would fight that pool for the cores and hang forked workers. Where torch has another runtime (macOS,
Windows), a small pool of Python threads serves: kernels run without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from normsmith.ops.cpu.kernels import arguments as slot

SERIAL_BELOW = 2**15
"""Elements under which starting threads costs more than it saves."""

_forked = False


def _after_fork() -> None:
    # threads from before the fork do not exist in the child, and libgomp would wait for them
    global _forked  # noqa: PLW0603 — a fact about the process
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads_for(elements: int) -> int:
    """How many threads to ask for."""
    if elements < SERIAL_BELOW or _forked:
        return 1
    return torch.get_num_threads()


@cache
def _openmp() -> tuple[Callable[..., None], int, int, int] | None:
    """GOMP_parallel of torch's own library, and the addresses of what its threads call.

    That is omp_get_thread_num, omp_get_num_threads, and GOMP_barrier.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    loaded = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines() if "gomp" in line}
    # torch's copy first: another package may have brought one of its own
    for path in sorted(loaded, key=lambda path: "torch" not in path):
        try:
            library = ctypes.CDLL(path)
            start = library.GOMP_parallel
            called = (library.omp_get_thread_num, library.omp_get_num_threads, library.GOMP_barrier)
            addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in called]
        except (OSError, AttributeError):
            continue
        start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        start.restype = None
        return start, addresses[0], addresses[1], addresses[2]
    return None


_SLOT = ctypes.sizeof(ctypes.c_int64)


def can_wait() -> bool:
    """Whether the threads of a launch can wait for one another between phases."""
    return _openmp() is not None


def launch(kernel: int, run: Any, block: int, threads: int) -> None:
    """Run a kernel on the slots at `block`: `kernel` is its address, `run` the same as a function."""
    if threads == 1:
        run(block)
        return
    openmp = _openmp()
    if openmp is None:
        _on_own_threads(run, block, threads)
        return
    start, *addresses = openmp
    slots = (ctypes.c_int64 * slot.SLOTS).from_address(block)
    slots[slot.GET_THREAD], slots[slot.GET_THREADS], slots[slot.BARRIER] = addresses
    start(kernel, block, threads, 0)
    slots[slot.GET_THREAD] = slots[slot.BARRIER] = 0


def _on_own_threads(run: Any, block: int, threads: int) -> None:
    """Run a kernel on a pool of Python threads, each with its number in a copy of the block."""
    content = ctypes.string_at(block, _SLOT * slot.SLOTS)
    copies = [ctypes.create_string_buffer(content, len(content)) for _ in range(threads)]
    for number, copy in enumerate(copies):
        slots = (ctypes.c_int64 * slot.SLOTS).from_buffer(copy)
        slots[slot.THREAD], slots[slot.THREADS] = number, threads
    others = [_pool(threads).submit(run, ctypes.addressof(copy)) for copy in copies[1:]]
    run(ctypes.addressof(copies[0]))
    for other in others:
        other.result()


_LOCK = threading.Lock()


@cache
def _pool_of(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="normsmith")


def _pool(threads: int) -> ThreadPoolExecutor:
    with _LOCK:
        return _pool_of(os.getpid(), threads)
