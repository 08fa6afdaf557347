"""The tests of the kernels without a GPU, in a process whose Triton interprets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", minversion="3.6")  # older ones the row refuses


@pytest.mark.parametrize(
    ("names", "least", "mark"),
    [
        (["test_kernels.py"], 50, "not full"),
        (["test_compiled_graphs.py", "test_ranks.py"], 35, "not full"),
        pytest.param(["test_kernels.py"], 45, "full", marks=pytest.mark.full),
        pytest.param(["test_compiled_graphs.py", "test_ranks.py"], 50, "full", marks=pytest.mark.full),
    ],
)
def test_kernels_interpreted(names, least, mark):
    """Triton reads the environment when it is imported; the shape checker would rewrite the kernels."""
    files = [str(Path(__file__).with_name(name)) for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", mark, *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "NORMSMITH_CHECK_SHAPES": "0"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > least
