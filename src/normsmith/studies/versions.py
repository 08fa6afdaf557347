"""What computes a trial: versions, the backend of batch norm, the instruction set. They are part of its key."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch

from normsmith.errors import StudyError
from normsmith.ops import explain
from normsmith.ops.dispatch import rows_from

_BACKEND = "NORMSMITH_BACKEND"
_CHOOSING = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")
"""Variables by which the libraries below torch choose their instructions; none of them says what it took."""


def versions(device: str = "cpu") -> dict[str, str]:
    """What decides the numbers of a trial on that device, beside the trial and the task, by name."""
    backend, instructions = serving(device), _instructions(device)
    return {
        "normsmith": version("normsmith"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "backend": backend if backend != "numba" else f"numba {version('numba')}",
        "instruction set": instructions if backend != "numba" else f"{instructions}{_numba_target()}",
    }


def serving(device: str) -> str:
    """The row of the table of backends that serves batch norm in training on that device."""
    return explain(torch.zeros(2, 3, device=device)).splitlines()[-1].partition(":")[0]


@contextmanager
def served_from(name: str | None, device: str) -> Iterator[None]:
    """Have one row of the table of backends serve batch norm, and where it cannot, those after it.

    Worker processes that are started inside take over the same. `name` is that of a row; None means what the
    environment asks for, which is all rows if it asks for nothing.

    Raises:
        BackendError: there is no such row.
        StudyError: it does not serve on that device, with the reason.
    """
    before = os.environ.get(_BACKEND)
    name = name or before
    if not name or "," in name:
        yield
        return
    os.environ[_BACKEND] = rows_from(name)
    try:
        if serving(device) != name:
            reasons = dict(
                line.split(": ", 1) for line in explain(torch.zeros(2, 3, device=device)).splitlines()
            )
            raise StudyError(f"the backend {name} cannot compute this study: {reasons[name]}")
        yield
    finally:
        if before is None:
            del os.environ[_BACKEND]
        else:
            os.environ[_BACKEND] = before


def chosen_by_environment() -> dict[str, str]:
    """The variables of this process by which backend and instructions are chosen, for processes on other machines."""
    return {name: os.environ[name] for name in (_BACKEND, *_CHOOSING) if name in os.environ}


def _instructions(device: str) -> str:
    """The instruction set that torch computes with on a CPU, or the name of the GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    chosen = (f", {name}={os.environ[name]}" for name in _CHOOSING if os.environ.get(name))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}{''.join(chosen)}"


def _numba_target() -> str:
    """The processor that numba compiles for, where it is told one."""
    from numba import config

    named = [text for text in (config.CPU_NAME, config.CPU_FEATURES) if text]
    return f", numba for {' '.join(named)}" if named else ""
