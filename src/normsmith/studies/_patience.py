"""Patience with a database: a server that is gone is waited for, and what was cut off is done once more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from normsmith.errors import StoreError

GONE_SECONDS = 40.0
"""How long a server is waited for: less than a claim holds after it was renewed, so that nobody takes it meanwhile."""
LOOK = 0.5
"""Seconds between two attempts to reach it."""

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction, begun when the server of the database can be reached; of a file it is begun at once."""
    with _connected(engine) as connection, connection.begin():
        yield connection


def _connected(engine: sa.Engine) -> sa.Connection:
    until = time.monotonic() + GONE_SECONDS
    while True:
        try:
            return engine.connect()
        except OperationalError:
            if engine.dialect.name == "sqlite" or time.monotonic() >= until:
                raise
            time.sleep(LOOK)


def once_more(method: Callable[P, T]) -> Callable[P, T]:
    """Do what was cut off from its database once more: for what may be done twice, as it does no more than once."""

    @wraps(method)
    def persistent(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except StoreError as error:
            if not _was_cut_off(error):
                raise
        return method(*args, **kwargs)

    return persistent


def _was_cut_off(error: StoreError) -> bool:
    """Whether the connection was lost on the way."""
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and cause.connection_invalidated
