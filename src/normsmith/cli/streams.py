"""Standard streams whose reader may be gone, as after `| head -1`: what is written then goes nowhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def open_standard() -> None:
    """Open those of the three standard streams that are closed onto nothing.

    Otherwise the next file to be opened, a data base for instance, would be taken for standard error by libraries and
    by child processes.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(opened, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nothing = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process runs
            setattr(sys, name, nothing)


class Unread:
    """Standard output or error, by name; a study that runs for minutes does not end because nobody reads its words."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _stream(self) -> Any:
        return getattr(sys, self._name)

    def write(self, text: str) -> int:
        """Write, if anybody reads."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._leave()
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def _leave(self) -> None:
        """Send what is still buffered nowhere, or Python would complain when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
