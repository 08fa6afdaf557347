"""The studies that a store keeps: what was asked, which trials that takes, and what came out when it had ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import sqlalchemy as sa
from pydantic import ValidationError

from normsmith.errors import StoreError
from normsmith.studies._database import OPTIONAL, insertion, now, schema, storable
from normsmith.studies._patience import once_more
from normsmith.studies.results import StudyResult

FORMAT = 1
"""How a result is written into a store: 1 is `StudyResult` as JSON."""

_HOW_IT_RUNS = {"jobs", "timeout"}
"""Settings that decide none of a study's numbers."""
_KEYS_A_QUERY = 500  # databases limit the number of parameters

_studies = sa.Table(
    "studies",
    schema,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("identity", sa.String(64), nullable=False, unique=True),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("point", sa.Double, nullable=False),
    sa.Column("questions", sa.JSON, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("versions", sa.JSON, nullable=False),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("started", sa.String(32), nullable=False),
    sa.Column("ended", sa.String(32), nullable=False),
    sa.Column("format", sa.Integer),
    sa.Column("result", sa.Text),
    info=OPTIONAL,
)
_asked = sa.Table(
    "asked",
    schema,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True, index=True),
    sa.Column("arm", sa.Text, nullable=False),
    info=OPTIONAL,
)
TABLES = (_studies, _asked)

Connect: TypeAlias = Callable[[], AbstractContextManager[sa.Connection]]


@dataclass(frozen=True)
class AskedStudy:
    """What is asked of which task, and by what that is computed.

    Attributes:
        task: the name of the task.
        fingerprint: of the task: all of its trials have it in their spec.
        point: how much of the task's metric is a point.
        questions: what is asked, by name.
        settings: how the study runs, as in `Settings`.
        versions: what computes it, by name.
        command: the command line that asks it; empty where Python does.
        started: when it was asked, in ISO 8601.
    """

    task: str
    fingerprint: str
    point: float
    questions: tuple[str, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str = ""
    started: str = ""

    @property
    def identity(self) -> str:
        """SHA-256 of all that decides its numbers: the same study asked again has the same."""
        decides = {name: value for name, value in self.settings.items() if name not in _HOW_IT_RUNS}
        if decides.pop("budget", None) is not None:
            decides["budget"] = "some"  # a larger one goes on with the same study
        content = [self.fingerprint, self.questions, decides, dict(self.versions)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class KeptStudy:
    """A study as a store keeps it.

    Attributes:
        number: by which the store knows it, from 1 on. The same study asked again keeps it.
        asked: what was asked.
        ended: when it had its answers, in ISO 8601; empty if it never had.
        trials: how many trials it has asked for so far.
        missing: how many of these are not in the store, or raised, were killed or ran out of time.
    """

    number: int
    asked: AskedStudy
    ended: str
    trials: int
    missing: int


class KeptStudies:
    """The studies in one store, in the order in which they were first asked.

    A store of an earlier version has no tables for them until the first study is asked of it.
    """

    def __init__(self, connect: Connect, trials: sa.Table, final: tuple[str, ...]) -> None:
        self._connect = connect
        self._is_result = (trials.c.key == _asked.c.key) & trials.c.status.in_(final)
        self._trials = trials
        self._is_there = False

    @once_more
    def begin(self, study: AskedStudy) -> int:
        """Keep that a study is asked; returns its number, which is that of the same study asked before, if it was.

        Raises:
            StoreError: the store is closed or cannot be written.
        """
        told = {"command": storable(study.command), "started": study.started or now()}
        row = {**asdict(study), **told, "identity": study.identity, "task": storable(study.task), "ended": ""}
        with self._connect() as connection:
            schema.create_all(connection, TABLES)
        with self._connect() as connection:
            insert = insertion(connection.dialect.name, _studies).values(row)
            put = insert.on_conflict_do_update(index_elements=["identity"], set_=told)
            return int(connection.execute(put.returning(_studies.c.number)).scalar_one())

    @once_more
    def ask(self, number: int, arms: Mapping[str, str]) -> None:
        """Keep that a study asks for trials: their keys, each with the name that the study gives to its arm.

        Raises:
            StoreError: the store is closed or cannot be written.
        """
        rows = [{"study": number, "key": key, "arm": storable(arm)} for key, arm in arms.items()]
        if rows:
            with self._connect() as connection:
                insert = insertion(connection.dialect.name, _asked)
                connection.execute(insert.on_conflict_do_nothing(), rows)

    @once_more
    def finish(self, number: int, result: StudyResult) -> None:
        """Keep what came out of a study, in place of what came out when it was asked before.

        Raises:
            StoreError: the store is closed or cannot be written.
        """
        row = {"ended": now(), "format": FORMAT, "result": result.model_dump_json()}
        with self._connect() as connection:
            connection.execute(_studies.update().where(_studies.c.number == number).values(row))

    def all(self) -> list[KeptStudy]:
        """Every study that was asked, by its number.

        Raises:
            StoreError: the store is closed or cannot be read.
        """
        if not self._has_tables():
            return []
        result = sa.select(self._trials.c.key).where(self._is_result).exists()
        counts = (
            sa.select(
                _asked.c.study,
                sa.func.count().label("trials"),
                sa.func.count(sa.case((~result, 1))).label("missing"),
            )
            .group_by(_asked.c.study)
            .subquery()
        )
        told = [column for column in _studies.c if column.name not in {"format", "result"}]
        joined = _studies.outerjoin(counts, counts.c.study == _studies.c.number)
        query = (
            sa.select(*told, counts.c.trials, counts.c.missing)
            .select_from(joined)
            .order_by(_studies.c.number)
        )
        with self._connect() as connection:
            return [_kept(dict(row._mapping)) for row in connection.execute(query)]

    def result(self, number: int) -> StudyResult:
        """What came out of a study.

        Raises:
            StoreError: there is no such study, it never ended, or another version of normsmith wrote its result.
        """
        row = None
        if self._has_tables():
            query = sa.select(_studies.c.format, _studies.c.result).where(_studies.c.number == number)
            with self._connect() as connection:
                row = connection.execute(query).first()
        if row is None or row.result is None:
            raise StoreError(
                f"expected the result of study {number}, got none: it was not asked or has not ended"
            )
        try:
            if row.format != FORMAT:
                raise ValueError(f"format {row.format}")
            return StudyResult.model_validate_json(row.result)
        except (ValidationError, ValueError) as error:
            raise StoreError(
                f"expected the result of study {number} as this version of normsmith writes it, got one that it cannot "
                "read: another version wrote it, or its row was changed; ask the study again, its trials are there"
            ) from error

    def keys(self, number: int) -> list[str]:
        """The keys of all trials that a study has asked for, in their order.

        Raises:
            StoreError: the store is closed or cannot be read.
        """
        query = sa.select(_asked.c.key).where(_asked.c.study == number).order_by(_asked.c.key)
        with self._connect() as connection:
            return list(connection.execute(query).scalars())

    def arms(self, keys: Iterable[str]) -> dict[str, str]:
        """What the arms of trials are called, by key: as the study says that asked for the trial last.

        Raises:
            StoreError: the store is closed or cannot be read.
        """
        wanted, names = list(keys), dict[str, str]()
        if not self._has_tables():
            return names
        query = sa.select(_asked.c.key, _asked.c.arm).order_by(_asked.c.study)
        with self._connect() as connection:
            for start in range(0, len(wanted), _KEYS_A_QUERY):
                some = _asked.c.key.in_(wanted[start : start + _KEYS_A_QUERY])
                names |= {row.key: row.arm for row in connection.execute(query.where(some))}
        return names

    def _has_tables(self) -> bool:
        if not self._is_there:
            with self._connect() as connection:
                self._is_there = sa.inspect(connection).has_table(_asked.name)
        return self._is_there


class Asking:
    """One study as it is asked of a store, which keeps nothing of it before it asks for trials."""

    def __init__(self, studies: KeptStudies, study: AskedStudy) -> None:
        self._studies, self._study = studies, study
        self._number: int | None = None

    @property
    def number(self) -> int:
        """The number of the study, which is kept from now on."""
        if self._number is None:
            self._number = self._studies.begin(self._study)
        return self._number

    def ask(self, arms: Mapping[str, str]) -> None:
        """As `KeptStudies.ask`."""
        self._studies.ask(self.number, arms)

    def finish(self, result: StudyResult) -> StudyResult:
        """Keep the result; returns it, with a note where the store could not keep it."""
        try:
            self._studies.finish(self.number, result)
        except (StoreError, ValueError) as error:  # ValueError: pydantic's, for text that is none
            return result.model_copy(update={"notes": (*result.notes, f"This result is not kept: {error}")})
        return result


def _kept(row: dict[str, Any]) -> KeptStudy:
    told = {field.name: row[field.name] for field in fields(AskedStudy)}
    return KeptStudy(
        row["number"],
        AskedStudy(**{**told, "questions": tuple(row["questions"])}),
        row["ended"],
        row["trials"] or 0,
        row["missing"] or 0,
    )
