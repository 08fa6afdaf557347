"""A kernel that compiles in a second, through the cache as the others do; run as a program it prints 42."""

import ctypes
import sys

import torch

from normsmith.ops.cpu import compiled
from normsmith.ops.cpu.arguments import SLOTS


def doubling(extras, like, work):
    def kernel(address):
        slots = compiled.carray(address, SLOTS, compiled.int64)
        slots[1] = 2 * slots[0]

    return kernel


def main():
    if "--nowhere-to-write" in sys.argv:
        from numba.core import caching

        def refuse(self):
            raise PermissionError("read-only")

        caching._CacheLocator.ensure_cache_path = refuse
    compiled._MAKERS["columns", "forward"] = doubling
    run = compiled.as_function(compiled.kernel("columns", "forward", torch.float32))
    slots = (ctypes.c_int64 * SLOTS)(21)
    run(ctypes.addressof(slots))
    sys.stdout.write(f"{slots[1]}\n")


if __name__ == "__main__":
    main()
