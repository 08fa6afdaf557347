"""Claims on trials, by which studies on one store divide the work; a claim that is not renewed expires."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias
from uuid import getnode, uuid4

import sqlalchemy as sa

from normsmith.studies._database import insertion, schema
from normsmith.studies._patience import once_more

CLAIM_SECONDS = 60.0
"""How long a claim holds that is not renewed: so long do other machines wait for the trials of a killed study."""

claims = sa.Table(
    "claims",
    schema,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False, index=True),
    sa.Column("until", sa.Double, nullable=False),
)


def new_owner() -> str:
    """A name of this process for its claims, which tells other processes of this machine whether it still runs."""
    return f"{_machine()}-{os.getpid()}-{uuid4().hex[:12]}"


def _is_dead(owner: str) -> bool:
    """Whether an owner was a process of this machine that has ended; of others nothing is known."""
    machine, _, rest = owner.partition("-")
    pid = rest.partition("-")[0]
    if machine != _machine() or not pid.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's
        return False
    return False


@cache
def _machine() -> str:
    """A word for this machine, and the container in which process numbers mean the same."""
    space = Path("/proc/self/ns/pid")
    names = (platform.node(), getnode(), space.stat().st_ino if space.exists() else "")
    return sha256(repr(names).encode()).hexdigest()[:12]


Connect: TypeAlias = Callable[[], AbstractContextManager[sa.Connection]]


class Claims:
    """The claims in one store, by the clock of its database, so that machines need not agree on the time."""

    def __init__(self, connect: Connect, seconds: float = CLAIM_SECONDS) -> None:
        self._connect, self.seconds = connect, seconds

    @once_more
    def take(self, owner: str, key: str) -> bool:
        """Claim a trial for `owner`, unless somebody has: then False."""
        with self._connect() as connection:
            now = _now(connection)
            row = {"owner": owner, "until": now + self.seconds}
            insert = insertion(connection.dialect.name, claims).values(key=key, **row)
            free = (claims.c.until < now) | (
                claims.c.owner == owner
            )  # its own: the answer may have been lost
            taken = insert.on_conflict_do_update(index_elements=["key"], set_=row, where=free)
            return connection.execute(taken.returning(claims.c.key)).first() is not None

    @once_more
    def take_free(self, owner: str, keys: Iterable[str]) -> set[str]:
        """Claim those of the keys on which there is no claim, not even one that has expired; returns them.

        In the order of their keys, so that two studies that want the same do not wait for each other.
        """
        with self._connect() as connection:
            until = _now(connection) + self.seconds
            rows = [{"key": key, "owner": owner, "until": until} for key in sorted(keys)]
            free = insertion(connection.dialect.name, claims).on_conflict_do_nothing().returning(claims.c.key)
            return set(connection.execute(free, rows).scalars()) if rows else set()

    @once_more
    def drop_dead(self) -> None:
        """Give up the claims of processes of this machine that have ended: nobody need wait for theirs to expire."""
        with self._connect() as connection:
            owners = list(connection.execute(sa.select(claims.c.owner).distinct()).scalars())
        if dead := list(filter(_is_dead, owners)):
            # SQLite refuses a write in a transaction that began by reading, once somebody else has written
            with self._connect() as connection:
                connection.execute(claims.delete().where(claims.c.owner.in_(dead)))

    @once_more
    def renew(self, owner: str) -> None:
        """Let all claims of `owner` hold from now on for as long as new ones."""
        with self._connect() as connection:
            until = _now(connection) + self.seconds
            connection.execute(claims.update().where(claims.c.owner == owner).values(until=until))

    @once_more
    def held(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys on which somebody has a claim that has not expired."""
        with self._connect() as connection:
            now = _now(connection)
            rows = connection.execute(sa.select(claims.c.key).where(claims.c.until >= now))
            return {row.key for row in rows} & set(keys)

    @once_more
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
