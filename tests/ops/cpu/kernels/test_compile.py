"""Compiled kernels on disk: shared by processes, mended when damaged, named after all that they are made of."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from subprocess import PIPE

import pytest


class TestCache:
    """With a kernel that compiles in a second; what is beside the package stays as it is."""

    KERNEL = (sys.executable, "-W", "error", "-m", "tests.ops.cpu.kernels.tiny_kernel")

    def start(self, folder, *arguments):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
        root = Path(__file__).parents[4]
        return subprocess.Popen(
            [*self.KERNEL, *arguments], env=environment, cwd=root, stdout=PIPE, stderr=PIPE, text=True
        )

    def ends_well(self, process):
        try:
            printed, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert printed == "42\n", errors

    def test_two_processes_at_once_then_damage(self, tmp_path):
        """Into one empty folder; then the kernel's file is cut short, and mended by the process that meets it."""
        for process in [self.start(tmp_path), self.start(tmp_path)]:
            self.ends_well(process)
        (kernel,) = tmp_path.rglob("*columns_forward*.nbc")
        (index,) = tmp_path.rglob("*columns_forward*.nbi")
        whole = kernel.stat().st_size
        for damaged in (kernel, index):
            damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
            self.ends_well(self.start(tmp_path))
            assert kernel.stat().st_size > 0.9 * whole

    def test_names_hold_all_sources(self):
        """Whatever a kernel is made of is in the digest: that of the folder, out of which its files import nothing."""
        pytest.importorskip("numba")
        from normsmith.ops.cpu.kernels import compile

        files = list(Path(compile.__file__).parent.glob("*.py"))
        assert len(files) > 5
        named = {
            name for file in files for name in re.findall(r"^from (normsmith[\w.]*)", file.read_text(), re.M)
        }
        assert all(name.startswith("normsmith.ops.cpu.kernels") for name in named), named

    def test_nowhere_to_write(self, tmp_path):
        self.ends_well(self.start(tmp_path, "--nowhere-to-write"))
        assert not any(tmp_path.iterdir())


class TestOlderProcessors:
    """Kernels are compiled for the processor that NUMBA_CPU_NAME says: one of 2003 rounds no half precision."""

    PROGRAM = """
        import torch
        from normsmith import BatchNorm2d
        from normsmith.ops import explain

        x = torch.randn(4, 2, 20, 20, generator=torch.Generator().manual_seed(0))
        want = torch.nn.BatchNorm2d(2)(x.bfloat16().float())
        leaf = x.bfloat16().requires_grad_()
        y = BatchNorm2d(2)(leaf)
        y.float().square().sum().backward()
        torch.testing.assert_close(y.float(), want, rtol=2**-8, atol=1e-6)
        assert leaf.grad.isfinite().all()
        assert BatchNorm2d(2)(torch.full_like(x, torch.nan).bfloat16()).isnan().all()
        print(explain(x.bfloat16()), explain(x.half()).splitlines()[0], sep="\\n")
    """

    @pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
    def test_half_precision(self, tmp_path):
        environment = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(self.PROGRAM)],
            env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.stdout == "numba: taken\nnumba: this processor converts no float16\n", done.stderr
