"""The store of trials: one row a trial, committed as it ends, so that no finished trial is run twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from normsmith.errors import InputError, StoreError
from normsmith.studies._database import explained, now, open_database, schema

Status = Literal["finished", "diverged", "raised", "killed", "timeout"]

_FINAL = ("finished", "diverged")
_KEYS_A_QUERY = 500  # databases limit the number of parameters


@dataclass(frozen=True)
class Record:
    """One trial as it is stored.

    Attributes:
        key: SHA-256 of all that decides the result, 64 hexadecimal digits.
        spec: what the key is a hash of, readable.
        status: `finished` and `diverged` are results; `raised`, `killed` and `timeout` are not.
        reason: why it did not finish; empty if it did.
        measurements: numbers, strings, lists and string-keyed dicts of them. Floats come back bit for bit,
            infinities and NaN included; tuples come back as lists.
        seconds: wall-clock time of the trial.
        versions: what computed it, by name.

    Raises:
        InputError: the key is no SHA-256, the status is unknown, or the seconds are not finite.
    """

    key: str
    spec: Mapping[str, Any]
    status: Status
    reason: str
    measurements: Mapping[str, Any]
    seconds: float
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        if len(self.key) != 64 or not set(self.key) <= set("0123456789abcdef"):
            raise InputError(f"expected a trial's key of 64 hexadecimal digits, got {self.key!r}")
        if self.status not in get_args(Status):
            raise InputError(f"expected a status among {', '.join(get_args(Status))}, got {self.status!r}")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise InputError(f"expected the seconds a trial took, got {self.seconds!r}")


class _ExactJSON(sa.TypeDecorator[Any]):
    """JSON as every database takes it: what has no number in JSON is written `{"$float": "nan"}`."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: object) -> Any:
        return _to_json(value)

    def process_result_value(self, value: Any, dialect: object) -> Any:
        return _from_json(value)


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and name != "$float" for name in value):
            raise InputError(f"expected names to be strings, other than '$float', got {list(value)!r}")
        return {name: _to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"expected numbers, strings, lists and dicts to store, got a {type(value).__name__}")


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$float"}:
            return float(value["$float"])
        return {name: _from_json(item) for name, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


_trials = sa.Table(
    "trials",
    schema,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("spec", _ExactJSON, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("measurements", _ExactJSON, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("versions", _ExactJSON, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
_NAMES = tuple(field.name for field in fields(Record))


class Store:
    """Trials by key, in SQLite or PostgreSQL.

    A SQLite file is made where there is none; an existing file that is not a store is refused and left as it
    is, byte for byte. Several studies may use one store at once, and one that is killed loses nothing that
    was put. The tables: `meta` (one row: application, schema_version, created) and `trials` (`Record`, and
    when it was put).

    Args:
        url: `sqlite:///study.db` (in the working directory), `sqlite:////absolute/study.db`, `sqlite://` (in
            memory) or `postgresql://user@host/name` (needs the extra `postgres`).

    Raises:
        StoreError: the URL is malformed, or what it names is not a store, of another schema, or not writable.
        MissingExtraError: the database's driver is not installed.

    >>> trial = Record("0" * 64, {"seed": 0}, "finished", "", {"accuracy": 0.97}, 0.4, {"torch": "2.13"})
    >>> with Store("sqlite://") as store:
    ...     store.put(trial)
    ...     records = store.get(["0" * 64, "1" * 64])
    >>> records["0" * 64].measurements, len(records)
    ({'accuracy': 0.97}, 1)
    """

    def __init__(self, url: str = "sqlite:///study.db") -> None:
        self.url, self._engine = open_database(url)
        self._open = True

    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records that are there, by key, in the order asked for.

        Raises:
            StoreError: the store is closed or cannot be read.
        """
        wanted = list(dict.fromkeys(keys))
        records = {}
        columns = [_trials.c[name] for name in _NAMES]
        with self._connection() as connection:
            for start in range(0, len(wanted), _KEYS_A_QUERY):
                some = wanted[start : start + _KEYS_A_QUERY]
                for row in connection.execute(sa.select(*columns).where(_trials.c.key.in_(some))):
                    records[row.key] = Record(**row._mapping)
        return {key: records[key] for key in wanted if key in records}

    def put(self, record: Record) -> None:
        """Keep a record; it is committed when this returns.

        The first *finished* or *diverged* record of a key stays; any other is replaced by a later one.

        Raises:
            StoreError: the store is closed or cannot be written.
            InputError: the record holds something that JSON cannot.
        """
        row = {name: getattr(record, name) for name in _NAMES}
        row["reason"] = _storable(record.reason)
        row["created"] = now()
        waiting = (_trials.c.key == record.key) & _trials.c.status.not_in(_FINAL)
        replace, insert = _trials.update().where(waiting).values(row), _trials.insert().values(row)
        for _ in range(2):  # once more if another study inserted the key between the two statements
            try:
                with self._connection() as connection:
                    if connection.execute(replace).rowcount == 0:
                        connection.execute(insert)
                return
            except IntegrityError:  # the key is there: final, or new since the update
                continue

    def count(self) -> int:
        """The number of records.

        Raises:
            StoreError: the store is closed or cannot be read.
        """
        with self._connection() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(_trials)).scalar_one()

    def close(self) -> None:
        """Let go of the database; closing twice is harmless."""
        self._open = False
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        if not self._open:
            raise StoreError(f"expected an open store, got {self.url} after close(); open it again")
        with explained(self.url), self._engine.begin() as connection:
            yield connection


def _storable(text: str) -> str:
    """Text without what databases refuse: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
