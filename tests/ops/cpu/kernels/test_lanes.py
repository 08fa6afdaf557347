"""Parts of kernels: names that nobody else sees."""

from __future__ import annotations

import numpy as np
import pytest


def test_names_of_parts_are_seen_in_their_own_kernel_alone():
    """Kernels that several processes have compiled meet in one, and call by name what they do not keep to themselves.

    Once, the backward of one process called the forward's loop of another, and its sums were 0.
    """
    numba = pytest.importorskip("numba")
    from llvmlite.binding import Linkage

    from normsmith.ops.cpu.kernels import compile

    body = compile._body(compile._RUNS["columns", "backward"], "name", None, None, np.float32, np.float32)
    made = numba.cfunc(compile._SIGNATURE, nopython=True, error_model="numpy")(
        body
    )  # from the cache come no names
    functions = [each for each in made._library._final_module.functions if not each.is_declaration]
    parts = {each.name.split(".")[-2]: each.linkage for each in functions if each.name.count(".") > 1}
    assert {"over", "settle_gradient"} <= set(parts)
    assert set(parts.values()) == {Linkage.internal}
