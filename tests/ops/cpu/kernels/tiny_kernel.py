"""A kernel that compiles in a second, through the cache as the others do; run as a program it prints 42."""

import ctypes
import sys

import torch

from normsmith.ops.cpu.kernels import compile
from normsmith.ops.cpu.kernels.arguments import SLOTS
from normsmith.ops.cpu.kernels.translate import part


@part
def doubling(a, f, added, coded, like, work):
    a[1] = 2 * a[0]


def main():
    if "--nowhere-to-write" in sys.argv:
        from numba.core import caching

        def refuse(self):
            raise PermissionError("read-only")

        caching._CacheLocator.ensure_cache_path = refuse
    compile._RUNS["columns", "forward"] = doubling
    run = compile.as_function(compile.kernel("columns", "forward", torch.float32))
    slots = (ctypes.c_int64 * SLOTS)(21)
    run(ctypes.addressof(slots))
    sys.stdout.write(f"{slots[1]}\n")


if __name__ == "__main__":
    main()
