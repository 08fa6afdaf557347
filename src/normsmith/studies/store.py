"""The store of trials: one row a trial, committed as it ends, so that no finished trial is run twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import Any, Literal, get_args

import sqlalchemy as sa

from normsmith.errors import InputError, StoreError
from normsmith.studies._claims import CLAIM_SECONDS, Claims, claims
from normsmith.studies._database import explained, insertion, now, open_database, schema, storable
from normsmith.studies._patience import once_more, transaction
from normsmith.studies._unused import remove_unused
from normsmith.studies.kept import KeptStudies

Status = Literal["finished", "diverged", "raised", "killed", "timeout"]

_FINAL = ("finished", "diverged")
_KEYS_A_QUERY = 500  # databases limit the number of parameters


@dataclass(frozen=True)
class Record:
    """One trial as it is stored.

    Attributes:
        spec: what was computed: with the versions, all that decides the result.
        status: `finished` and `diverged` are results; `raised`, `killed` and `timeout` are not.
        reason: why it did not finish; empty if it did.
        measurements: numbers, strings, lists and string-keyed dicts of them. Floats come back bit for bit,
            infinities and NaN included; tuples come back as lists.
        seconds: wall-clock time of the trial.
        versions: what computed it, by name.

    Raises:
        InputError: the status is unknown, or the seconds are not finite.
    """

    spec: Mapping[str, Any]
    status: Status
    reason: str
    measurements: Mapping[str, Any]
    seconds: float
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise InputError(f"expected a status among {', '.join(get_args(Status))}, got {self.status!r}")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise InputError(f"expected the seconds a trial took, got {self.seconds!r}")

    @cached_property
    def key(self) -> str:
        """What the record is found by: `key_of` its spec and versions."""
        return key_of(self.spec, self.versions)


def key_of(spec: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of all that decides a trial's result.

    Raises:
        InputError: the spec holds something that JSON cannot.
    """
    return _sha256({**spec, "versions": versions})


def _digest(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row, stored beside it: whether it is still as it was put."""
    return _sha256([row["key"], float(row["seconds"]), *(row[name] for name in _NAMES if name != "seconds")])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(_to_json(value), sort_keys=True).encode()).hexdigest()


class _ExactJSON(sa.TypeDecorator[Any]):
    """JSON as every database takes it: what has no number in JSON is written `{"$float": "nan"}`."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: object) -> Any:
        return _to_json(value)


def _to_json(value: Any) -> Any:
    kind = type(value)  # curves are long: what most of them consist of comes first
    if (kind is float and math.isfinite(value)) or kind is int or kind is str:
        return value
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
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
_NAMES = tuple(field.name for field in fields(Record))
_NO_CLAIM = claims.delete().where(claims.c.key == sa.bindparam("of"))


def _rows() -> sa.Select[Any]:
    """Rows of trials, with JSON as text: what is none any more is then refused with its key."""
    return sa.select(
        *(
            sa.cast(column, sa.Text).label(column.name) if isinstance(column.type, _ExactJSON) else column
            for column in _trials.c
        )
    )


@cache
def _put(dialect: str) -> Any:
    """The statement that inserts a row, or puts it in place of one of the same key that is no result."""
    insert = insertion(dialect, _trials)
    row = {column.name: insert.excluded[column.name] for column in _trials.c}
    waiting = _trials.c.status.not_in(_FINAL)
    return insert.on_conflict_do_update(index_elements=["key"], set_=row, where=waiting)


class Store:
    """Trials by key, in SQLite or PostgreSQL.

    A SQLite file is made where there is none; an existing file that is not a store is refused and left as it
    is, byte for byte. Several studies may use one store at once, and one that is killed loses nothing that
    was put. A server that is gone is waited for, 40 seconds long. The tables: `meta` (one row: application,
    schema_version, created), `trials` (`Record`, and when it was put), `claims` (which study runs which trial, and
    until when it says so), `studies` (`KeptStudy`) and `asked` (which trials each of them takes). Stores of earlier
    versions get the last two with the next study.

    Args:
        url: `sqlite:///study.db` (in the working directory), `sqlite:////absolute/study.db`, `sqlite://` (in
            memory: nothing is kept) or `postgresql://user@host/name` (needs the extra `postgres`).
        claim_seconds: how long a claim on a trial holds that is not renewed.
        create: whether a store is made where there is none. If not, one must be there, and it may be on a disk that
            cannot be written.

    Attributes:
        claims: by which studies on one store divide the trials among them.
        studies: what was asked, and what came out (`KeptStudies`).

    Raises:
        StoreError: the URL is malformed, or what it names is not a store, of another schema, or not writable.
        MissingExtraError: the database's driver is not installed.

    >>> trial = Record({"seed": 0}, "finished", "", {"accuracy": 0.97}, 0.4, {"torch": "2.13"})
    >>> with Store("sqlite://") as store:
    ...     store.put(trial)
    ...     records = store.get([trial.key, "1" * 64])
    >>> records[trial.key].measurements, len(records)
    ({'accuracy': 0.97}, 1)
    """

    def __init__(
        self,
        url: str = "sqlite:///study.db",
        *,
        claim_seconds: float = CLAIM_SECONDS,
        create: bool = True,
    ) -> None:
        self._database = open_database(url, create=create)
        self.url = self._database.url
        self.claims = Claims(self._connection, claim_seconds)
        self.studies = KeptStudies(self._connection, _trials, _FINAL)
        self._open = True

    @property
    def is_kept(self) -> bool:
        """Whether the trials outlast the process: in memory they do not."""
        return self._database.is_kept

    def is_same(self, other: Store) -> bool:
        """Whether another store is the same database as this one, by whatever name."""
        mine, theirs = self._database, other._database
        if not (mine.is_kept and theirs.is_kept):
            return self is other
        if mine.file is None or theirs.file is None:
            return mine.url == theirs.url
        return mine.file[1] == theirs.file[1]

    @once_more
    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records that are there, by key, in the order asked for.

        Raises:
            StoreError: the store is closed or cannot be read, or a record is no longer as it was put.
        """
        wanted = list(dict.fromkeys(keys))
        records = {}
        with self._connection() as connection:
            for start in range(0, len(wanted), _KEYS_A_QUERY):
                some = wanted[start : start + _KEYS_A_QUERY]
                for row in connection.execute(_rows().where(_trials.c.key.in_(some))):
                    records[row.key] = self._record(dict(row._mapping))
        return {key: records[key] for key in wanted if key in records}

    def pages(self, size: int = 100) -> Iterator[list[tuple[Record, str]]]:
        """Every record, and when it was put (ISO 8601), in the order of their keys, so many at a time.

        Raises:
            StoreError: as `get`.
        """
        last = ""
        while True:
            query = _rows().where(_trials.c.key > last).order_by(_trials.c.key).limit(size)
            with self._connection() as connection:
                rows = [dict(row._mapping) for row in connection.execute(query)]
            if not rows:
                return
            last = rows[-1]["key"]
            yield [(self._record(row), row["created"]) for row in rows]

    def put(self, record: Record) -> None:
        """Keep a record; it is committed when this returns.

        The first *finished* or *diverged* record of a key stays; any other is replaced by a later one.

        Raises:
            StoreError: the store is closed or cannot be written.
            InputError: the record holds something that JSON cannot.
        """
        record = replace(record, reason=storable(record.reason))
        row = {name: getattr(record, name) for name in ("key", *_NAMES)}
        self._write(row | {"digest": _digest(row), "created": now()})

    @once_more
    def _write(self, row: dict[str, Any]) -> None:
        with self._connection() as connection:
            connection.execute(_NO_CLAIM, {"of": row["key"]})
            connection.execute(_put(connection.dialect.name), row)

    def _record(self, row: dict[str, Any]) -> Record:
        """The record of a row, which must be what was put under its key."""
        try:
            row |= {name: _from_json(json.loads(row[name])) for name in ("spec", "measurements", "versions")}
            intact = row["digest"] == _digest(row) and row["key"] == key_of(row["spec"], row["versions"])
        except (InputError, TypeError, ValueError):
            intact = False
        if not intact:
            raise StoreError(
                f"expected trial {row['key']} in {self.url} as it was put there, got a row that was changed since; "
                "delete that row, and its trial runs again, or choose another store"
            )
        return Record(**{name: row[name] for name in _NAMES})

    @once_more
    def count(self) -> int:
        """The number of records.

        Raises:
            StoreError: the store is closed or cannot be read.
        """
        with self._connection() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(_trials)).scalar_one()

    def discard(self) -> None:
        """Close the store, and take back its file where nobody needs it, so that a refused study leaves none.

        It goes if opening it made it, nothing was put in, and nobody else has it open. On a server empty tables stay.
        """
        self.close()
        if self._database.is_new and self._database.file is not None:
            remove_unused(self._database.file[0])

    def close(self) -> None:
        """Let go of the database; closing twice is harmless."""
        self._open = False
        self._database.engine.dispose()

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
        with explained(self.url):
            self._database.check_present()
            with transaction(self._database.engine) as connection:
                yield connection
