"""Standard output is for results: what the user's code prints goes to standard error. Its threads hold up no exit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache


@contextmanager
def prints_aside() -> Iterator[None]:
    """In the block, whatever any code prints goes to standard error.

    That holds for what C writes too; and again when the process ends, for exit handlers and what C has buffered.
    """
    _flush()
    ours = os.dup(_open(1))
    os.dup2(_open(2), 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)
        _aside_at_exit()


def leave_behind(before: set[threading.Thread]) -> bool:
    """Whether threads run that would keep the process from ending and were not there `before`; says so."""
    left = [t for t in threading.enumerate() if t not in before and t.is_alive() and not t.daemon]
    if left:
        names = ", ".join(thread.name for thread in left[:3])
        sys.stderr.write(f"the task left threads running, which are not waited for: {names}\n")
        _flush()
    return bool(left)


@cache
def _aside_at_exit() -> None:
    """Have standard output lead to standard error from the beginning of the process's end."""

    def turn() -> None:
        _flush()
        os.dup2(_open(2), 1)

    atexit.register(turn)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads, closed, none
            stream.flush()


def _open(descriptor: int) -> int:
    """The descriptor, or one that leads nowhere where it is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
    return descriptor
