"""Which of the user's code files a process has run, however they were loaded."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from normsmith.tasks.imports import is_library_file

_run: set[str] = set()
_read: set[str] = set()


@cache
def watch() -> None:
    """Begin to note what this process runs, by an audit hook. Python has no way to end that: for worker processes."""
    sys.addaudithook(_note)


def executed() -> frozenset[Path]:
    """The user's files that were imported, executed or loaded as extensions since `watch`; libraries are left out."""
    files = (_users(name) for name in tuple(_run))
    return frozenset(file for file in files if file is not None)


@cache
def _users(name: str) -> Path | None:
    """The file of that name, unless it is a library's."""
    path = Path(name).resolve()
    return path if path.is_file() and not is_library_file(path) else None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "exec":  # of a module that is imported, too
        name = arguments[0].co_filename
        if name.startswith("<"):  # code without a file: it may be the text of one that was read before
            _run.update(_read)
        else:
            _run.add(os.path.abspath(name))
    elif event == "open" and isinstance(arguments[0], str | bytes):
        name = os.fsdecode(arguments[0])
        if name.endswith(".py"):
            _read.add(os.path.abspath(name))
    elif event == "import" and isinstance(arguments[1], str):  # an extension
        _run.add(os.path.abspath(arguments[1]))
