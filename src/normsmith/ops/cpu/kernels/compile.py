"""Kernels as C functions: compiled at first use, cached on disk.

A kernel is `void f(int64 *slots)`; `arguments` names the slots. The cache is numba's: beside the package, in the
user's cache directory, or where NUMBA_CACHE_DIR says. File names hold a digest of the sources and of the machine,
so that processes that compile at once, versions and machines never meet in a file.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import binding
from numba import carray, cfunc, types
from numba.core.caching import FunctionCache
from numpy import float64, int64

from normsmith.ops.cpu.kernels import columns, planes
from normsmith.ops.cpu.kernels.arguments import SLOTS
from normsmith.ops.cpu.kernels.lanes import FAST, target_features

_ELEMENTS = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.bfloat16: np.uint16,
    torch.float16: np.int16,
}
_SIGNATURE = types.void(types.voidptr)
_LOCK = threading.Lock()


def _body(
    run_of_kernel: Any, name: str, added: Any, coded: Any, like: Any, work: Any
) -> Callable[[Any], None]:
    """The Python function that becomes a kernel. `run` is a global of it: numba's cache compares closures."""

    def kernel(address):  # type: ignore[no-untyped-def]
        run(carray(address, SLOTS, int64), carray(address, SLOTS, float64), added, coded, like, work)  # type: ignore[name-defined]  # noqa: F821

    body = FunctionType(kernel.__code__, {**globals(), "run": run_of_kernel}, name, None, kernel.__closure__)
    body.__qualname__ = name
    return body


_RUNS = {
    ("planes", "forward"): planes.forward,
    ("planes", "backward"): planes.backward,
    ("columns", "forward"): columns.forward,
    ("columns", "backward"): columns.backward,
}


class Compiled(NamedTuple):
    """A kernel in this process, and where the cache keeps it."""

    address: int
    folder: Path | None
    """None where the cache could not be written."""
    was_there: bool
    """Whether it came from the cache."""


def kernel(layout: str, direction: str, dtype: torch.dtype, added: bool = False, coded: bool = False) -> int:
    """The address of a kernel, compiled if need be.

    >>> import torch
    >>> kernel("columns", "forward", torch.float32) != 0
    True
    """
    return compiled(layout, direction, dtype, added, coded).address


@cache
def compiled(
    layout: str, direction: str, dtype: torch.dtype, added: bool = False, coded: bool = False
) -> Compiled:
    """A kernel, from the cache on disk or compiled now; `added` is a residual, `coded` are masks and weights."""
    like = _ELEMENTS[dtype]
    work = np.float64 if dtype == torch.float64 else np.float32
    kind = f"{str(dtype).removeprefix('torch.')}{'_added' * added}{'_coded' * coded}"
    name = f"{layout}_{direction}_{kind}_{_digest()}"
    body = _body(_RUNS[layout, direction], name, added or None, coded or None, like, work)
    with _LOCK:
        made = _compile(body)
    _KEEP.append(made)
    return Compiled(int(made.address), _folder_of(body, name), made.cache_hits > 0)


def _folder_of(body: Callable[[Any], None], name: str) -> Path | None:
    """The folder that holds the files of a kernel."""
    try:
        folder = Path(FunctionCache(body).cache_path)
    except Exception:  # noqa: BLE001 — numba finds no place to write to
        return None
    return folder if any(folder.glob(f"*{name}*.nbi")) else None


_KEEP: list[Any] = []
"""Compiled kernels stay for the life of the process: threads may be inside one."""


def _compile(body: Callable[[Any], None]) -> Any:
    """Compile through the cache on disk; where that fails, after emptying its index, and at last without it."""
    options = {"fastmath": FAST, "error_model": "numpy", "nopython": True}
    for prepare in (_nothing, _forget):
        try:
            prepare(body)
            return cfunc(_SIGNATURE, cache=True, **options)(body)
        except Exception:  # noqa: BLE001 — no directory, a full disk, a damaged file: a kernel needs none of them
            continue
    return cfunc(_SIGNATURE, **options)(body)


def _nothing(body: Callable[[Any], None]) -> None:
    pass


def _forget(body: Callable[[Any], None]) -> None:
    """Empty the index of a kernel's files: a damaged one would stop every process."""
    FunctionCache(body).flush()


@cache
def _digest() -> str:
    """What the names of kernels end in: a digest of the sources in this folder and of the processor's features."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    digest.update(" ".join(sorted(target_features())).encode())
    return digest.hexdigest()[:16]


@cache
def converts_half() -> bool:
    """Whether the processor converts float16 itself."""
    return "f16c" in target_features() or not binding.get_process_triple().startswith(("x86", "i686"))


def as_function(address: int) -> Any:
    """A kernel as a function to call from Python; it runs without the interpreter's lock."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
