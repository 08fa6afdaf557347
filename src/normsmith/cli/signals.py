"""A request to end (SIGTERM) is an interrupt like Ctrl-C, so that what is open is closed and what is kept is said."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by `kill`, a scheduler or the end of a container."""


@contextmanager
def terminable() -> Iterator[None]:
    """In the block, SIGTERM raises `Terminated`; in the main thread, which alone may say so, and once.

    A second one ends the process at once, as it does elsewhere.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated
