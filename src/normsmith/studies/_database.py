"""Opening the database of a store: a store is created whole or not at all, and other databases are left as they are."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
    StatementError,
)

from normsmith._files import creating
from normsmith._text import error_text
from normsmith.errors import InputError, MissingExtraError, StoreError

APPLICATION = "normsmith"
SCHEMA_VERSION = 3
"""What a store's trials and their keys look like. 3: a row holds all that its key is a hash of, and a digest;
claims."""
LOCK_SECONDS = 30
"""How long a write waits for others that are writing to the same SQLite file, or have locked the table of a server."""
ANSWER_SECONDS = 10
"""How long a server may take to answer."""

_FORMS = "sqlite:///study.db or postgresql://user@host/name"

OPTIONAL = {"optional": True}
"""The `info` of tables that stores of earlier versions lack, and that are created there when they are first needed."""

schema = sa.MetaData()
meta = sa.Table(
    "meta",
    schema,
    sa.Column("application", sa.String(32), primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)


@cache
def insertion(dialect: str, table: sa.Table) -> Any:
    """An INSERT into a table that can say what to do on a conflict, as the dialect of a database has it."""
    return {"sqlite": sqlite, "postgresql": postgresql}[dialect].insert(table)


def now() -> str:
    """The time as it is stored: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def storable(text: str) -> str:
    """Text without what databases refuse: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True)
class Database:
    """An open database that has `schema`.

    Attributes:
        url: as it may be shown, without a password.
        engine: by which it is read and written.
        is_kept: whether it outlasts the process.
        file: that of SQLite, with its device and number on the disk.
        is_new: whether that file was made by opening it.
    """

    url: str
    engine: sa.Engine
    is_kept: bool
    file: tuple[Path, tuple[int, int]] | None
    is_new: bool = False

    def check_present(self) -> None:
        """Refuse to work with a file that was removed or replaced: what SQLite writes to it is seen by nobody.

        Raises:
            StoreError: it was.
        """
        if self.file is not None and _identity(self.file[0]) != self.file[1]:
            raise StoreError(
                f"the store {self.url} is gone: its file was deleted, moved or replaced while it was in use; put it "
                "back, or name another store"
            )


def _identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None if there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_database(url: str, *, create: bool = True) -> Database:
    """A writable database that has `schema`; a SQLite file is created where there is none.

    Without `create` nothing is made, and a database that cannot be written will do.

    Raises:
        StoreError: the URL is malformed, or what it names is not a store, of another schema, or not writable.
        MissingExtraError: the database's driver is not installed.
    """
    parsed = _parse(url)
    shown = _shown(parsed)
    file = _file(parsed)
    is_new = file is not None and not file.exists()
    with explained(shown):
        if file is not None:
            _prepare_file(file, shown, create=create)
        engine = _engine(parsed, file, _mode(file, create=create))
        try:
            if file is None:
                if create or parsed.get_backend_name() == "sqlite":
                    _create_tables(engine)
                _verify(engine, shown)
            if create:
                _require_writable(engine)
        except BaseException:
            engine.dispose()
            raise
    identity = None if file is None else _identity(file)
    kept = file is not None or parsed.get_backend_name() != "sqlite"
    at = None if file is None or identity is None else (file, identity)
    return Database(shown, engine, kept, at, is_new)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what the database or the file system says into one line; IntegrityError is left to the caller."""
    try:
        yield
    except IntegrityError:
        raise
    except StatementError as error:
        if isinstance(error.orig, InputError):
            raise error.orig from None
        raise _failure(url, error_text(error.orig or error), _state(error)) from error
    except (SQLAlchemyError, OSError, sqlite3.Error, json.JSONDecodeError) as error:
        raise _failure(url, error_text(error)) from error


def _failure(url: str, said: str, state: str = "") -> StoreError:
    return StoreError(
        f"expected a database that can be read and written at {url}, got {said}; {_advice(url, said, state)}, "
        "or choose another store"
    )


def _state(error: StatementError) -> str:
    """The code (SQLSTATE) of what a server said, which is the same in every language; empty for other databases."""
    return getattr(error.orig, "sqlstate", None) or ""


_DISK, _MEMORY, _LOCKED = "53100", "53200", "55P03"
"""Codes (SQLSTATE) of a server: in any language it says them alike."""
_ADVICE = (
    (
        ("locked", _LOCKED),
        "another process has kept it locked for {seconds} s: end that process, or what it is doing",
    ),
    (("disk is full", "No space left", _DISK), "its disk is full: make free space"),
    ((_MEMORY,), "its server has no memory left: end what takes it there"),
    (("disk image is malformed",), "the file is damaged: put a copy of it back"),
    (("authentication", "password", 'role "'), "check the user and the password"),
    (('" does not exist',), "make that database with `createdb`, or correct its name"),
)
"""What to do about a database that says one of these words, or has one of these codes."""


def _advice(url: str, said: str, state: str) -> str:
    """What to do about a database that says this."""
    for words, advice in _ADVICE:
        if any(word in said or word == state for word in words):
            return advice.format(seconds=LOCK_SECONDS)
    if url.startswith("sqlite"):
        return "check the path, its permissions and the free space"
    return "check that its server runs, can be reached and has free space"


# From a URL to an engine.


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        shown = parsed.render_as_string(hide_password=True)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        asynchronous = parsed.get_dialect().is_async
    except (ArgumentError, NoSuchModuleError, ValueError):
        hidden = re.sub(r":[^:/@]*@", ":***@", url)
        file = f"; for that file write sqlite:///{url}" if url and ":" not in url else ""
        raise StoreError(f"expected a database URL such as {_FORMS}, got {hidden!r}{file}") from None
    plain = backend == "postgresql" or (
        parsed.drivername in ("sqlite", "sqlite+pysqlite") and not parsed.query
    )
    if asynchronous or not plain or (parsed.database or "").startswith("file:"):
        raise StoreError(f"expected a plain database URL such as {_FORMS}, got {shown!r}")
    return parsed


def _shown(url: sa.URL) -> str:
    """A URL as people write it, without its password."""
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def _file(url: sa.URL) -> Path | None:
    """The file of a SQLite URL; None for a database in memory or on a server."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).absolute()


def _mode(file: Path | None, *, create: bool) -> str:
    """How SQLite opens a file: only to read it where it need not, and cannot, be written."""
    if file is None or create or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return "rw"
    return _reading(file)


def _reading(file: Path) -> str:
    """How SQLite opens a file to read it: without a write-ahead log no process writes to it, and none is made."""
    return "ro" if file.with_name(f"{file.name}-wal").exists() else "ro&immutable=1"


def _engine(url: sa.URL, file: Path | None, mode: str) -> sa.Engine:
    if file is not None:
        return _file_engine(file, mode)
    if url.get_backend_name() == "sqlite":
        # One connection for all threads: another would see another database.
        shared = sa.create_engine(
            "sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False}
        )
        return _transactional(shared)
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": ANSWER_SECONDS}
    try:
        engine = sa.create_engine(
            url, pool_pre_ping=True, connect_args=patience
        )  # it may have been restarted
    except ImportError as error:
        raise MissingExtraError(
            f"the store {_shown(url)} needs the driver {error.name}, "
            "which is not installed: pip install 'normsmith[postgres]'"
        ) from error

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        connection.commit()  # else it is forgotten with the transaction

    return engine


def _file_engine(file: Path, mode: str) -> sa.Engine:
    """SQLite opened by a URI whose mode says whether it may create or write the file."""
    uri = f"{file.as_uri()}?mode={mode}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")  # with a write-ahead log: safe against SIGKILL
        except BaseException:
            connection.close()  # it is no database, or one that cannot be read: nobody else will close it
            raise
        return connection

    return _transactional(sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool))


def _transactional(engine: sa.Engine) -> sa.Engine:
    """Have SQLAlchemy, and not Python's sqlite3, begin transactions: only then are CREATEs part of one."""

    @sa.event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


# Making and checking.


def _prepare_file(file: Path, url: str, *, create: bool) -> None:
    """Create the file if there is none; otherwise check that it is a store, through a read-only connection."""
    if not create and not file.exists():
        raise StoreError(
            f"expected a store at {url}, got no file there; check the path, or make a store with "
            f"`normsmith study --store {url}`"
        )
    if not file.parent.is_dir():
        raise StoreError(
            f"cannot create {url}: expected a directory at {file.parent}, got none; make it first"
        )
    if not file.exists():
        _create_file(file, url)
    if not file.is_file():
        raise StoreError(
            f"expected a file for the store {url}, got {file}, which is none; choose another path"
        )
    with file.open("rb") as opened:
        if opened.read(16) != b"SQLite format 3\0":
            raise StoreError(f"expected a store of normsmith at {url}, got another file; choose another path")
    reader = _file_engine(file, _reading(file))
    try:
        _verify(reader, url)
    finally:
        reader.dispose()


def _create_file(file: Path, url: str) -> None:
    """Create the store under another name and move it into place; if another study is faster, its store is used."""
    with creating(file, lambda reason: _failure(url, reason)) as draft:
        engine = _file_engine(draft, "rwc")
        try:
            with engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA journal_mode = WAL")
            _create_tables(engine)
        finally:
            engine.dispose()


def _create_tables(engine: sa.Engine) -> None:
    """Create the tables in an empty database; a database with other tables is left for `_verify` to refuse."""
    if sa.inspect(engine).get_table_names():
        return
    try:
        with engine.begin() as connection:
            schema.create_all(connection)
            row = {"application": APPLICATION, "schema_version": SCHEMA_VERSION, "created": now()}
            connection.execute(meta.insert().values(row))
    except DatabaseError:
        if not sa.inspect(engine).get_table_names():  # else another study was faster: its tables are used
            raise


def _verify(engine: sa.Engine, url: str) -> None:
    """Raise StoreError unless the database is a store of normsmith, of the schema that this version reads."""
    foreign = StoreError(
        f"expected a store of normsmith at {url}, got another application's database; "
        "choose another path or database"
    )
    needed = {name for name, table in schema.tables.items() if not table.info.get("optional")}
    there = set(sa.inspect(engine).get_table_names())
    if not there:
        on_server = engine.dialect.name != "sqlite"
        how = f"`normsmith study --store {url}` makes one there" if on_server else "choose another path"
        raise StoreError(f"expected a store of normsmith at {url}, got a database without tables; {how}")
    if not needed <= there:
        raise foreign
    try:
        with engine.connect() as connection:
            rows = connection.execute(sa.select(meta.c.application, meta.c.schema_version)).all()
    except DatabaseError as error:
        raise foreign from error
    if len(rows) != 1 or rows[0].application != APPLICATION:
        raise foreign
    version = rows[0].schema_version
    if version != SCHEMA_VERSION:
        what = (
            "a newer normsmith wrote it; upgrade normsmith or choose another store"
            if version > SCHEMA_VERSION
            else "an older normsmith wrote it, under keys by which its trials are not found again; choose another store"
        )
        raise StoreError(f"expected schema {SCHEMA_VERSION} in {url}, got {version}: {what}")


def _require_writable(engine: sa.Engine) -> None:
    """Update no row: databases refuse even that where writing is not allowed."""
    with engine.begin() as connection:
        connection.execute(meta.update().where(sa.false()).values(schema_version=SCHEMA_VERSION))
