"""Files written whole or not at all: whatever happens, a path names the old file or the new one."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from normsmith.errors import NormsmithError

Failure = Callable[[str], NormsmithError]
"""Makes the caller's own error of the reason for which the file system refused."""


@contextmanager
def replacing(path: str | os.PathLike[str], failure: Failure) -> Iterator[Path]:
    """Write a file by way of a temporary one, which takes the place of `path` when the block has ended well.

    The block is given the path of an empty file in the same folder and writes to that. A file that was there keeps
    its permissions, and a link goes on naming the file it named, which is the one replaced. If the block raises, or
    the file cannot be written, what was at `path` is as it was, and nothing is left beside it.

    Raises:
        NormsmithError: what `failure` makes of the reason, where the file system refuses.
    """
    with explained(failure):
        target = _resolved(path)
        with beside(target) as temporary:
            yield temporary
            _finish(temporary, _permissions(target))
            temporary.replace(target)


@contextmanager
def creating(path: str | os.PathLike[str], failure: Failure) -> Iterator[Path]:
    """Write a new file as `replacing` does, but leave a file that somebody else has made in the meantime.

    Raises:
        NormsmithError: what `failure` makes of the reason, where the file system refuses.
    """
    with explained(failure):
        target = _resolved(path)
        with beside(target) as temporary:
            yield temporary
            _finish(temporary, _permissions(target))
            try:
                target.hardlink_to(temporary)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                temporary.rename(target)


@contextmanager
def explained(failure: Failure) -> Iterator[None]:
    """Turn what the file system raises inside the block into the caller's own error."""
    try:
        yield
    except OSError as error:
        raise failure(error.strerror or str(error)) from error


def _resolved(path: str | os.PathLike[str]) -> Path:
    """The file that a path names, links followed. Raises OSError for what no file system takes."""
    try:
        target = Path(path).resolve()
    except (RuntimeError, ValueError) as error:  # a link to itself in Python 3.11 and 3.12; a NUL in the name
        raise OSError(str(error)) from error
    if target.is_symlink():  # a link to itself, from Python 3.13 on
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """An empty temporary file in the folder of `target`; it is gone afterwards unless it was moved.

    Raises:
        OSError: the folder takes no file.
    """
    handle, name = tempfile.mkstemp(prefix=".normsmith-", suffix=".tmp", dir=_resolved(target).parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _finish(temporary: Path, mode: int) -> None:
    """Have the contents on the disk before the name is: a crash may not leave an empty file under it."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.chmod(mode)


def _permissions(target: Path) -> int:
    """Those of the file that is there, or those that any new file gets."""
    return stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0o077)  # the only way to read it is to set it
    os.umask(mask)
    return mask
