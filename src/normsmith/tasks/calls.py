"""Calls of the user's code: whatever it raises is explained, and a process that it forks does not go on as ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from normsmith.errors import NormsmithError


@contextmanager
def users_code(
    explain: Callable[[BaseException], NormsmithError], but: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Raise what `explain` makes of whatever the block raises, sys.exit() too; Ctrl-C and `but` pass as they are.

    A process that the block forks, and that comes to its end, ends there: it would be a second study.

    >>> from normsmith.errors import TaskError
    >>> with users_code(lambda error: TaskError(f"the metric raised {error!r}")):
    ...     raise SystemExit(3)
    Traceback (most recent call last):
    normsmith.errors.TaskError: the metric raised SystemExit(3)
    """
    process = os.getpid()
    passing: tuple[type[BaseException], ...] = (KeyboardInterrupt, *but)
    try:
        yield
    except passing:
        raise
    except BaseException as error:
        raise explain(error) from error
    finally:
        if os.getpid() != process:
            os._exit(0)
