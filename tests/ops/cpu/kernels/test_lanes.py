"""Parts of kernels: names that mean one function."""

from __future__ import annotations

import re

import numpy as np
import pytest


def test_names_of_parts_mean_one_function():
    """Kernels of several processes meet in one and share parts by name; numba's numbers differ by process.

    Once, the backward of one process called the forward's loop of another, and its sums were 0.
    """
    numba = pytest.importorskip("numba")
    from normsmith.ops.cpu.kernels import compile, lanes

    assert len(set(lanes.NAMES)) == len(lanes.NAMES)
    called: dict[str, set[str]] = {}
    for direction in ("forward", "backward"):
        run = compile._RUNS["columns", direction]
        body = compile._body(run, direction, True, np.float32, np.float32)
        # from the cache come no names
        made = numba.cfunc(compile._SIGNATURE, nopython=True, error_model="numpy")(body)
        functions = made._library._final_module.functions
        called[direction] = {
            re.sub(r"B\d+v\d+", "", function.name)
            for function in functions
            if "_over_lines" in function.name and not function.is_declaration
        }
    assert called["forward"]
    assert called["forward"].isdisjoint(called["backward"])
