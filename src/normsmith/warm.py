"""Compile the CPU kernels ahead: `python -m normsmith.warm`, for images of containers, and for CI.

A kernel is compiled when a layer needs it first, and kept on disk. This does it for all kernels of some dtypes at once,
and says where they are kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path

import torch

from normsmith.errors import BackendError, MissingExtraError

DTYPES = ("float32", "float64", "bfloat16", "float16")


def warm(*dtypes: str) -> str:
    """Compile the kernels of some dtypes, "float32" if none is named, and keep them on disk.

    Kernels that are there already are not compiled again. Each dtype has eight: forward and backward, by planes and by
    columns, with and without what is rare (residuals, masks, weights).

    Returns:
        What was compiled, where the kernels are kept, their size, and how long it took, in lines.

    Raises:
        BackendError: the cache cannot be written, or the processor cannot do without help what a dtype needs.
        MissingExtraError: numba is not installed.

    >>> print(warm("float32"))  # doctest: +ELLIPSIS
    float32: ...
    """
    try:
        from normsmith.ops.cpu.kernels.compile import Compiled, compiled, converts_half
    except ImportError as error:
        raise MissingExtraError(
            f"warm: expected numba, which compiles the kernels, got: {error}; pip install numba"
        ) from error
    if "float16" in dtypes and not converts_half():
        raise BackendError(
            "warm: expected dtypes that this processor converts itself, got float16; batches in it are served by "
            "torch here, leave it out"
        )
    lines, folders = [], set()
    for name in dtypes or DTYPES[:1]:
        started = time.perf_counter()
        made: list[Compiled] = [
            compiled(layout, direction, getattr(torch, name), added, coded)
            for layout, direction, added, coded in product(
                ("planes", "columns"), ("forward", "backward"), (False, True), (False, True)
            )
        ]
        if any(each.folder is None for each in made):
            raise BackendError(
                "warm: expected a folder that can be written, beside the package or in your cache directory, got none; "
                "name one by NUMBA_CACHE_DIR, now and where the kernels will be used"
            )
        folders |= {each.folder for each in made if each.folder is not None}
        there = sum(each.was_there for each in made)
        took = time.perf_counter() - started
        lines.append(f"{name}: {len(made) - there} kernels compiled, {there} were there; {took:.1f} s")
    lines += [f"kept in {folder} ({_size(folder) / 1e6:.1f} MB)" for folder in sorted(folders)]
    return "\n".join(lines)


def _size(folder: Path) -> int:
    """Bytes of the files of kernels in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.nb[ic]"))


def main() -> int:
    """The command; 1 where kernels cannot be compiled or kept."""
    parser = argparse.ArgumentParser(prog="python -m normsmith.warm", description=(__doc__ or "").strip())
    parser.add_argument("dtypes", nargs="*", metavar="DTYPE", help=f"{', '.join(DTYPES)}; default float32")
    options = parser.parse_args()
    unknown = [name for name in options.dtypes if name not in DTYPES]
    if unknown:
        parser.error(f"expected dtypes out of {', '.join(DTYPES)}, got {', '.join(unknown)}")
    try:
        sys.stdout.write(f"{warm(*options.dtypes)}\n")
    except (BackendError, MissingExtraError) as error:
        sys.stderr.write(f"normsmith: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
