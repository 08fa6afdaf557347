"""Kernels compiled ahead: kept once, found the next time, and an error where they cannot be kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from normsmith.errors import BackendError
from normsmith.warm import main, warm


@pytest.fixture
def small_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Kernels that compile at once, kept in a folder of the test."""
    numba = pytest.importorskip("numba")
    from tests.ops.cpu.kernels.tiny_kernel import doubling

    from normsmith.ops.cpu.kernels import compile

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compile, "_RUNS", dict.fromkeys(compile._RUNS, doubling))
    compile.compiled.cache_clear()  # as in a new process
    yield tmp_path
    compile.compiled.cache_clear()


def test_compiles_once_and_finds_what_is_there(small_kernels: Path) -> None:
    from normsmith.ops.cpu.kernels import compile

    first, where = warm().splitlines()
    assert first.startswith("float32: 16 kernels compiled, 0 were there; ")
    (folder,) = {file.parent for file in small_kernels.rglob("*.nbi")}
    assert where.startswith(f"kept in {folder} (")
    assert len(list(folder.glob("*.nbi"))) == 16
    compile.compiled.cache_clear()
    second, again = warm("float32").splitlines()
    assert second.startswith("float32: 0 kernels compiled, 16 were there; ")
    assert again == where


@pytest.mark.usefixtures("small_kernels")
def test_a_cache_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from numba.core import caching

    def refuse(self: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    with pytest.raises(BackendError, match=r"folder that can be written.*NUMBA_CACHE_DIR"):
        warm("float64")
    monkeypatch.setattr(sys, "argv", ["warm"])
    assert main() == 1
    assert "NUMBA_CACHE_DIR" in capsys.readouterr().err


def test_an_unknown_dtype_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "normsmith.warm", "int8"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "expected dtypes out of float32, float64, bfloat16, float16, got int8" in done.stderr
