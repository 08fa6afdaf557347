"""Processes that start in milliseconds: forked from a server that has imported what they need.

To start Python and to import torch and normsmith takes seconds of a processor, and all tests together do it hundreds of
times. Real starts have tests of their own: those of the executors and of the command's streams.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONTEXT = multiprocessing.get_context("forkserver")


@cache
def start() -> None:
    """Start the server; it ends with this process."""
    before = dict(os.environ)
    paths = HERE, HERE.parents[1] / "src", before.get("PYTHONPATH", "")
    os.environ.update(PYTHONPATH=os.pathsep.join(map(str, paths)), OMP_NUM_THREADS="1")
    try:
        CONTEXT.set_forkserver_preload(["warm_imports"])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def process(function: Callable[..., Any], *arguments: Any, errors: Path) -> BaseProcess:
    """A process that calls a function; what it writes on standard error goes into a file."""
    start()
    errors.touch()
    started = CONTEXT.Process(target=_call, args=(dict(os.environ), errors, function, arguments))
    started.start()
    return started


def pool(
    max_workers: int, initializer: Callable[..., None], initargs: tuple[Any, ...], env: dict[str, str]
) -> Any:
    """loky's pool, with workers that are forked; the last argument of their initializer is their parent's number."""
    from loky import ProcessPoolExecutor

    start()
    given = {**os.environ, **env}, initializer, initargs[:-1]
    return ProcessPoolExecutor(max_workers, context=CONTEXT, initializer=_enter, initargs=given)


def _call(
    environment: dict[str, str], errors: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    _set_up(environment)
    os.dup2(os.open(errors, os.O_WRONLY), 2)
    function(*arguments)


def _enter(environment: dict[str, str], initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
    _set_up(environment)
    initializer(*initargs, os.getppid())


def _set_up(environment: dict[str, str]) -> None:
    """Take over the environment of who asked, and keep the server from staying for the sake of its forks."""
    assert "warm_imports" in sys.modules, "the server has imported nothing"
    os.environ.clear()
    os.environ.update(environment)
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
