"""Run a function in several real processes that form a gloo group, within a bound."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import warm_processes

BOUND = 120


def run_ranks(
    function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 60, bound: float = BOUND
) -> list[Any]:
    """Call `function(rank, size, *arguments)` in `size` processes and return what each returns.

    The function must be at the top of a module under tests/. `timeout` is that of the group, in seconds. A
    process that fails, or is not done within `bound` seconds, fails the test with its standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        call = (function.__module__, function.__qualname__, arguments, size, timeout)
        (where / "call").write_bytes(pickle.dumps(call))
        errors = [where / f"error-{rank}" for rank in range(size)]
        processes = [warm_processes.process(_main, folder, rank, errors=errors[rank]) for rank in range(size)]
        try:
            end = time.monotonic() + bound
            for rank, process in enumerate(processes):
                process.join(max(0.1, end - time.monotonic()))
                assert process.exitcode == 0, (
                    f"rank {rank} of {size} ended with {process.exitcode}:\n{errors[rank].read_text()}"
                )
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [pickle.loads((where / f"result-{rank}").read_bytes()) for rank in range(size)]


def wait_for(file: Path) -> None:
    """Wait until another rank has made a file, for a rank that stays away."""
    until = time.monotonic() + BOUND
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.05)


def _main(folder: str, rank: int) -> None:
    import importlib

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    where = Path(folder)
    module, name, arguments, size, timeout = pickle.loads((where / "call").read_bytes())
    store = dist.FileStore(str(where / "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        result = getattr(importlib.import_module(module), name)(rank, size, *arguments)
        (where / f"result-{rank}").write_bytes(pickle.dumps(result))
        if not torch.__version__.startswith("2.6."):  # whose gloo waits for ever for ranks that have left
            dist.destroy_process_group()
        os._exit(
            0
        )  # gloo's threads that still run while the interpreter ends abort the process, now and then
    finally:
        dist.destroy_process_group()
