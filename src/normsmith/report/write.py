"""Whether a report can be written at a path, and writing it there: the old report or the new one, whole."""

import os
import stat
from pathlib import Path

from normsmith import _files
from normsmith.errors import ReportError


def check_writable(path: str | os.PathLike[str], what: str = "report", ending: str = ".html") -> None:
    """Raise `ReportError` unless a report, or what it is, can be written at `path`; nothing is left behind.

    Called before a study starts, so that minutes of work do not end at a mistyped folder.

    >>> check_writable("no/such/folder/report.html")
    Traceback (most recent call last):
    normsmith.errors.ReportError: expected a folder to write the report in, got no/such/folder, which does not
    exist. Create it, or name another path.
    """
    target = Path(path)
    with _files.explained(_failure(path, what)):
        parent = target.parent
        if not parent.exists():
            raise ReportError(
                f"expected a folder to write the {what} in, got {parent}, which does not exist. "
                "Create it, or name another path."
            )
        if not parent.is_dir():
            raise ReportError(
                f"expected a folder to write the {what} in, got {parent}, which is a file. Name another path."
            )
        if target.is_dir():
            raise ReportError(
                f"expected the path of a {what} file, got {target}, which is a folder. "
                f"Name a file in it, such as {target / (what + ending)}."
            )
        if target.exists() and not (stat.S_ISREG(target.stat().st_mode) and os.access(target, os.W_OK)):
            raise ReportError(
                f"expected the path of a file that may be written, got {target}, which may not. "
                "Change its permissions, or name another path."
            )
        # Permissions alone do not tell: the file system may be read-only or full.
        with _files.beside(target):
            pass


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write UTF-8 `text` at `path`, whole or not at all; raises `ReportError`."""
    check_writable(path)
    with _files.replacing(path, _failure(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _failure(path: str | os.PathLike[str], what: str = "report") -> _files.Failure:
    """The error for a report that the file system does not take."""
    return lambda reason: ReportError(
        f"expected to write the {what} at {os.fspath(path)}, got {reason}. Name another path."
    )
