"""Writing a report so that whatever happens, the file holds the old report or the new one, whole."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normsmith.errors import ReportError


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `ReportError` unless a report can be written at `path`; nothing is left behind.

    Called before a study starts, so that minutes of work do not end at a mistyped folder.

    >>> check_writable("no/such/folder/report.html")
    Traceback (most recent call last):
    normsmith.errors.ReportError: expected a folder to write the report in, got no/such/folder, which does not
    exist. Create it, or name another path.
    """
    target = Path(path)
    with _explained(target):
        parent = target.parent
        if not parent.exists():
            raise ReportError(
                f"expected a folder to write the report in, got {parent}, which does not exist. "
                "Create it, or name another path."
            )
        if not parent.is_dir():
            raise ReportError(
                f"expected a folder to write the report in, got {parent}, which is a file. Name another path."
            )
        if target.is_dir():
            raise ReportError(
                f"expected the path of a report file, got {target}, which is a folder. "
                f"Name a file in it, such as {target / 'report.html'}."
            )
        if target.exists() and not (stat.S_ISREG(target.stat().st_mode) and os.access(target, os.W_OK)):
            raise ReportError(
                f"expected the path of a file that may be written, got {target}, which may not. "
                "Change its permissions, or name another path."
            )
        # Permissions alone do not tell: the file system may be read-only or full.
        with _beside(target):
            pass


def write_atomically(text: str, path: str | os.PathLike[str]) -> None:
    """Write UTF-8 `text` at `path` by way of a temporary file beside it; raises `ReportError`."""
    check_writable(path)
    # A link stays a link: the file it names is replaced.
    target = Path(path)
    with _explained(target):
        target = target.resolve()
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        with _beside(target) as temporary:
            with open(temporary, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(target)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReportError(
            f"expected to write the report at {target}, got {error.strerror or error}. Name another path."
        ) from error


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty temporary file in the folder of `target`, gone afterwards unless it was moved."""
    handle, name = tempfile.mkstemp(prefix=".normsmith-", suffix=".tmp", dir=target.resolve().parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
