"""A store that was made for a study which is then refused is taken back, unless somebody else has begun to use it."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

_ALWAYS_THERE = ("meta", "sqlite_sequence")


def remove_unused(file: Path) -> bool:
    """Remove a store's file if nothing was put into it and nobody has it open; says whether it did.

    Whatever keeps it from being removed, the file is then as it was.
    """
    with (
        suppress(OSError, sqlite3.Error),
        closing(
            sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
        ) as connection,
    ):
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = DELETE")  # raises where somebody else has it open
        connection.execute("BEGIN EXCLUSIVE")
        if _is_empty(connection):
            file.unlink()
            return True
        connection.execute("ROLLBACK")
        connection.execute("PRAGMA journal_mode = WAL")
    return False


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether no table has a row, but for those that every store has."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return not any(
        connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone()
        for table in tables
        if table not in _ALWAYS_THERE
    )
