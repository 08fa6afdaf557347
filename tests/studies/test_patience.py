"""A store that is gone for a while, locked, or on a full disk: what was put stays, and the error says what to do."""

from __future__ import annotations

import resource
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Timer

import pytest
import sqlalchemy as sa
from tests.contracts.store import a_record

from normsmith.errors import StoreError
from normsmith.studies import _database, _patience
from normsmith.studies._patience import once_more
from normsmith.studies.rescue import FILE, rescuing
from normsmith.studies.store import Store

RECORDS = [a_record(str(number)) for number in range(3)]


@pytest.fixture
def url(request, tmp_path):
    """The address of an empty store, of the kind that a test is given."""
    return (
        request.getfixturevalue("postgresql") if request.param == "server" else f"sqlite:///{tmp_path}/a.db"
    )


everywhere = pytest.mark.parametrize("url", ["file", "server"], indirect=True)


def lock(url, server):
    """Lock the trials as another process does; returns what ends it."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute("BEGIN IMMEDIATE")
        return connection.close
    engine = server.engine()
    connection = engine.connect()
    connection.execute(sa.text("LOCK TABLE trials"))
    return connection.close


@everywhere
def test_a_store_that_another_process_has_locked_says_so_and_loses_nothing(url, server, monkeypatch):
    monkeypatch.setattr(_database, "LOCK_SECONDS", 1)
    with Store(url) as store:
        store.put(RECORDS[0])
        end = lock(url, server)
        with pytest.raises(StoreError, match="another process has kept it locked for 1 s: end that process"):
            store.put(RECORDS[1])
        end()
        store.put(RECORDS[2])
        assert set(store.get(record.key for record in RECORDS)) == {RECORDS[0].key, RECORDS[2].key}


@everywhere
def test_several_studies_may_make_one_store_at_once(url):
    together = Barrier(4)

    def study(record):
        together.wait(timeout=60)
        with Store(url) as store:
            store.put(record)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(study, [*RECORDS, RECORDS[0]]))
    with Store(url) as store:
        assert store.count() == 3


def test_a_server_that_stops_within_a_transaction_and_comes_back_is_waited_for(postgresql, server):
    starting = Timer(1.0, server.start)
    with Store(postgresql) as store:
        store.put(RECORDS[0])

        @sa.event.listens_for(store._database.engine, "before_cursor_execute")
        def _(connection, cursor, statement, *_):
            if "INSERT INTO trials" in statement and starting.ident is None:
                server.stop()
                starting.start()

        store.put(RECORDS[1])
        starting.join()
        assert store.count() == 2


REFUSING = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION USING ERRCODE = TG_ARGV[0], MESSAGE = TG_ARGV[1]; END $$;
CREATE CONSTRAINT TRIGGER refusing AFTER INSERT ON trials DEFERRABLE INITIALLY {when}
    FOR EACH ROW EXECUTE FUNCTION refuse('{code}', '{words}')
"""
"""Has a server say, of each trial that is put, what it says when it lacks something."""


@pytest.mark.parametrize(
    ("when", "code", "words", "advice"),
    [
        # as a row is written, which needs a larger table
        ("IMMEDIATE", "53100", "could not extend file: No space left on device", "is full: make free space"),
        # as the transaction is committed, in a language that we do not read
        ("DEFERRED", "53100", "konnte Datei nicht erweitern", "its disk is full: make free space"),
        ("IMMEDIATE", "53200", "out of memory", "no memory left: end what takes it"),
    ],
)
def test_a_server_that_lacks_space_or_memory_loses_nothing_and_goes_on_when_it_has_some(
    postgresql, server, monkeypatch, tmp_path, when, code, words, advice
):
    monkeypatch.chdir(tmp_path)
    there = {record.key: record for record in RECORDS[:2]}
    with Store(postgresql) as store:
        store.put(RECORDS[0])
        with server.engine().begin() as connection:
            connection.exec_driver_sql(REFUSING.format(when=when, code=code, words=words))
        with (
            pytest.raises(StoreError, match=f"{words}.*{advice}.* the 1 trial of this study .* saved"),
            rescuing(store, there),
        ):
            store.put(RECORDS[1])
        with Store(f"sqlite:///{tmp_path / FILE}") as refuge:
            assert refuge.get(there) == {RECORDS[1].key: RECORDS[1]}
        with server.engine().begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER refusing ON trials")
        store.put(RECORDS[2])
        assert set(store.get(record.key for record in RECORDS)) == {RECORDS[0].key, RECORDS[2].key}


def test_a_connection_that_is_cut_in_the_middle_is_made_again(postgresql, server):
    with Store(postgresql) as store:
        engine, cut = server.engine(), []

        @sa.event.listens_for(store._database.engine, "before_cursor_execute")
        def _(connection, cursor, statement, *_):
            if "INSERT INTO trials" in statement and not cut:
                cut.append(statement)
                with engine.begin() as other:
                    pid = connection.connection.driver_connection.info.backend_pid
                    other.execute(sa.text(f"SELECT pg_terminate_backend({pid}, 5000)"))

        store.put(RECORDS[0])
        assert cut
        assert store.get([RECORDS[0].key])


def test_a_server_that_stays_away_says_so_and_what_was_computed_is_saved(
    postgresql, server, monkeypatch, tmp_path
):
    monkeypatch.setattr(_patience, "GONE_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)

    def study(store, records):
        with rescuing(store, records):
            store.put(RECORDS[0])
            server.stop()
            store.put(RECORDS[1])

    with Store(postgresql) as store:
        try:
            with pytest.raises(StoreError, match="check that its server runs, can be reached") as raised:
                study(store, {record.key: record for record in RECORDS})
        finally:
            server.start()
        assert "\n" not in str(raised.value)
        assert store.get([RECORDS[0].key])
    with Store(f"sqlite:///{tmp_path / FILE}") as refuge:
        assert refuge.count() == 3


def test_a_server_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(StoreError, match="check that its server runs"):
        Store(f"postgresql://me@/name?host={tmp_path}")


def test_a_full_disk_loses_no_trial_and_what_does_not_fit_is_saved_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    records = [a_record(str(number), measurements={"loss": [0.5] * 2000}) for number in range(60)]
    there = {}

    def study(store):
        with rescuing(store, there):
            for record in records:
                there[record.key] = record
                store.put(record)

    with Store(f"sqlite:///{tmp_path}/a.db") as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        try:
            with pytest.raises(
                StoreError, match=r"free space, or choose another store; the .* are saved"
            ) as raised:
                study(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(raised.value)
    with Store(f"sqlite:///{tmp_path}/a.db") as store, Store(f"sqlite:///{tmp_path / FILE}") as refuge:
        assert 5 < len(there) < 60
        assert {**store.get(there), **refuge.get(there)} == there


def test_only_what_was_cut_off_is_done_once_more():
    calls = []

    @once_more
    def fails(cause):
        calls.append(cause)
        raise StoreError("gone") from cause

    lost = sa.exc.OperationalError("INSERT", {}, Exception("server closed"), connection_invalidated=True)
    for cause, times in ((None, 1), (ValueError(), 1), (lost, 2)):
        calls.clear()
        with pytest.raises(StoreError):
            fails(cause)
        assert len(calls) == times
