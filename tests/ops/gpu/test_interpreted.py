"""The tests of the kernels without a GPU, in a process whose Triton interprets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", minversion="3.6")  # older ones the row refuses


@pytest.mark.parametrize(
    ("name", "least"), [("test_kernels.py", 50), ("test_compiled_graphs.py", 25), ("test_ranks.py", 40)]
)
def test_kernels_interpreted(name, least):
    """Triton reads the environment when it is imported; the shape checker would rewrite the kernels."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", str(Path(__file__).with_name(name))],
        env={**os.environ, "TRITON_INTERPRET": "1", "NORMSMITH_CHECK_SHAPES": "0"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > least
