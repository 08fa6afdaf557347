"""Claims on trials, by which studies on one store divide the work; a claim that is not renewed expires."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from normsmith.studies._database import schema

CLAIM_SECONDS = 60.0
"""How long a claim holds that is not renewed: so long do others wait for the trials of a study that was killed."""

claims = sa.Table(
    "claims",
    schema,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False, index=True),
    sa.Column("until", sa.Double, nullable=False),
)

Connect: TypeAlias = Callable[[], AbstractContextManager[sa.Connection]]


class Claims:
    """The claims in one store, by the clock of its database, so that machines need not agree on the time."""

    def __init__(self, connect: Connect, seconds: float = CLAIM_SECONDS) -> None:
        self._connect, self.seconds = connect, seconds

    def take(self, owner: str, key: str) -> bool:
        """Claim a trial for `owner`, unless somebody has: then False."""
        with self._connect() as connection:
            now = _now(connection)
            dialect: Any = {"sqlite": sqlite, "postgresql": postgresql}[connection.dialect.name]
            row = {"owner": owner, "until": now + self.seconds}
            insert = dialect.insert(claims).values(key=key, **row)
            taken = insert.on_conflict_do_update(index_elements=["key"], set_=row, where=claims.c.until < now)
            return connection.execute(taken.returning(claims.c.key)).first() is not None

    def renew(self, owner: str) -> None:
        """Let all claims of `owner` hold from now on for as long as new ones."""
        with self._connect() as connection:
            until = _now(connection) + self.seconds
            connection.execute(claims.update().where(claims.c.owner == owner).values(until=until))

    def held(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys on which somebody has a claim that has not expired."""
        with self._connect() as connection:
            now = _now(connection)
            rows = connection.execute(sa.select(claims.c.key).where(claims.c.until >= now))
            return {row.key for row in rows} & set(keys)

    def release(self, owner: str, key: str | None = None) -> None:
        """Give up a claim of `owner`, or all of them."""
        mine = claims.c.owner == owner
        with self._connect() as connection:
            connection.execute(claims.delete().where(mine if key is None else mine & (claims.c.key == key)))


def _now(connection: sa.Connection) -> float:
    """Seconds since 1970 on the clock of the database."""
    if connection.dialect.name == "sqlite":
        return float(connection.exec_driver_sql("SELECT (julianday('now') - 2440587.5) * 86400").scalar_one())
    return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one())
