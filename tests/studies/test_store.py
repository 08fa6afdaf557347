"""The store of trials: on every database, against other studies, against SIGKILL and against bad stores."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa
from tests.contracts.store import StoreContract, a_record

from normsmith import errors
from normsmith.errors import InputError, MissingExtraError, NormsmithError, StoreError
from normsmith.studies import _database
from normsmith.studies.store import Store

# A study in a process of its own: puts records as fast as it can and says of each that it is in.
WRITER = """
import hashlib, sys
from normsmith.studies.store import Record, Store
url, name, start, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Store(url) as store:
    for number in range(start, stop):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        store.put(Record(key, {"n": number}, "finished", "", {"loss": [number / 7] * 50}, 0.1, {"by": name}))
        print(number, flush=True)
"""


def writer(url: str, name: str, start: int, stop: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(errors.__file__).parents[1])}
    command = [sys.executable, "-c", WRITER, url, name, str(start), str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def key(number: int) -> str:
    return a_record(str(number)).key


class TestSQLiteFile(StoreContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/study.db"


class TestSQLiteInMemory(StoreContract):
    @pytest.fixture
    def url(self):
        return "sqlite://"


@pytest.mark.skipif("NORMSMITH_TEST_POSTGRES" not in os.environ, reason="needs a server: set its URL")
class TestPostgreSQL(StoreContract):
    """NORMSMITH_TEST_POSTGRES is the URL of a database of its own: its tables are dropped."""

    @pytest.fixture
    def url(self):
        url = os.environ["NORMSMITH_TEST_POSTGRES"]
        engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
        _database.schema.drop_all(engine)
        engine.dispose()
        return url


class TestRecord:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"key": "abc"}, "64 hexadecimal digits"),
            ({"key": "Z" * 64}, "64 hexadecimal digits"),
            ({"seconds": float("nan")}, "seconds"),
            ({"seconds": -1.0}, "seconds"),
        ],
    )
    def test_refuses_what_is_no_record(self, changes, said):
        with pytest.raises(InputError, match=said):
            replace(a_record(), **changes)


class TestFile:
    def test_is_kept_across_openings(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        with Store(url) as store:
            store.put(a_record())
        with Store(url) as store:
            assert store.get([a_record().key]) == {a_record().key: a_record()}
        assert [path.name for path in tmp_path.iterdir()] == ["study.db"]  # no draft, no log left behind

    def test_says_whose_it_is(self, tmp_path):
        Store(f"sqlite:///{tmp_path}/study.db").close()
        with sqlite3.connect(tmp_path / "study.db") as connection:
            assert connection.execute("SELECT application, schema_version FROM meta").fetchall() == [
                ("normsmith", 2)
            ]
            assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
        connection.close()

    def test_stays_where_it_was_when_the_working_directory_changes(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with Store() as store:
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            store.put(a_record())
            assert store.count() == 1
        assert (tmp_path / "study.db").is_file()

    @pytest.mark.parametrize("name", ["with space.db", "hash#.db", "100%.db", "σ.db"])
    def test_may_have_any_name(self, tmp_path, name):
        with Store(f"sqlite:///{tmp_path}/{name}") as store:
            store.put(a_record())
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_holds_json_that_others_can_read(self, tmp_path):
        """Strict JSON: NaN and infinities would make the column unreadable to other programs."""
        with Store(f"sqlite:///{tmp_path}/study.db") as store:
            store.put(a_record(measurements={"loss": [float("nan"), float("-inf"), 0.5]}))
        connection = sqlite3.connect(tmp_path / "study.db")
        (text,) = connection.execute("SELECT measurements FROM trials").fetchone()
        connection.close()
        strict = json.loads(text, parse_constant=pytest.fail)
        assert strict == {"loss": [{"$float": "nan"}, {"$float": "-inf"}, 0.5]}


class TestSeveralStudies:
    def test_may_make_one_store_at_once(self, tmp_path):
        url, together = f"sqlite:///{tmp_path}/study.db", Barrier(8)

        def study(number: int) -> None:
            together.wait(timeout=20)
            with Store(url) as store:
                store.put(a_record(str(number)))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(study, range(8)))
        with Store(url) as store:
            assert store.count() == 8
        assert [path.name for path in tmp_path.iterdir()] == ["study.db"]

    def test_may_write_to_one_store_at_once(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        studies = [writer(url, "one", 0, 200), writer(url, "two", 100, 300)]
        for study in studies:
            study.communicate(timeout=60)
            assert study.returncode == 0
        with Store(url) as store:
            found = store.get(key(number) for number in range(300))
        assert [record.spec["n"] for record in found.values()] == list(range(300))
        assert {record.versions["by"] for record in found.values()} == {"one", "two"}

    def test_one_that_is_killed_loses_nothing_it_has_put(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        study = writer(url, "killed", 0, 1_000_000)
        assert study.stdout is not None
        for line in study.stdout:
            if int(line) == 150:
                study.send_signal(signal.SIGKILL)
                break
        said = [int(line) for line in study.stdout.read().split("\n")[:-1]]  # between the signal and the end
        study.stdout.close()
        assert study.wait(timeout=20) == -signal.SIGKILL
        last = max([150, *said])
        with Store(url) as store:
            found = store.get(key(number) for number in range(last + 1))
            assert [record.spec["n"] for record in found.values()] == list(range(last + 1))
            assert all(
                record.measurements["loss"] == [record.spec["n"] / 7] * 50 for record in found.values()
            )
            assert store.count() <= last + 2  # the one under way may be in
            store.put(a_record("after"))
        with Store(url) as store:
            assert store.get([a_record("after").key])


def refusal(url: str, error: type[NormsmithError] = StoreError) -> str:
    with pytest.raises(error) as caught:
        Store(url)
    said = str(caught.value)
    assert "\n" not in said
    return said


def a_database(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def not_a_database(path: Path) -> None:
    path.write_bytes(b"my thesis, chapter one\n" * 100)


def empty_file(path: Path) -> None:
    path.touch()


def looks_like_a_database(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)


def other_tables(path: Path) -> None:
    a_database(path, "CREATE TABLE thesis (chapter)")


def other_tables_with_a_log(path: Path) -> None:
    a_database(path, "PRAGMA journal_mode = WAL", "CREATE TABLE thesis (chapter)")


def same_tables(path: Path) -> None:
    a_database(path, "CREATE TABLE meta (id)", "CREATE TABLE trials (id)")


def another_application(path: Path) -> None:
    Store(f"sqlite:///{path}").close()
    a_database(path, "UPDATE meta SET application = 'optimiser'")


def newer_schema(path: Path) -> None:
    Store(f"sqlite:///{path}").close()
    a_database(path, "UPDATE meta SET schema_version = 3")


def older_schema(path: Path) -> None:
    Store(f"sqlite:///{path}").close()
    a_database(path, "UPDATE meta SET schema_version = 1")


class TestBadStores:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (not_a_database, "got another file; choose another path"),
            (empty_file, "got another file; choose another path"),
            (looks_like_a_database, "file is not a database"),
            (other_tables, "another application's database"),
            (other_tables_with_a_log, "another application's database"),
            (same_tables, "another application's database"),
            (another_application, "another application's database"),
            (newer_schema, "expected schema 2 .* got 3: .* upgrade normsmith"),
            (
                older_schema,
                "expected schema 2 .* got 1: an older normsmith wrote it, .* choose another store",
            ),
        ],
    )
    def test_are_refused_and_left_as_they_are(self, tmp_path, make, said):
        make(tmp_path / "study.db")
        before = (tmp_path / "study.db").read_bytes()
        with pytest.raises(StoreError, match=said):
            Store(f"sqlite:///{tmp_path}/study.db")
        assert (tmp_path / "study.db").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["study.db"]

    def test_newer_schema_in_use_is_left_with_its_log(self, tmp_path):
        newer_schema(tmp_path / "study.db")
        user = sqlite3.connect(tmp_path / "study.db")
        user.execute("UPDATE meta SET created = 'now'")
        user.commit()
        before = {name: (tmp_path / name).read_bytes() for name in ("study.db", "study.db-wal")}
        assert "upgrade normsmith" in refusal(f"sqlite:///{tmp_path}/study.db")
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        user.close()

    def test_a_directory_is_refused(self, tmp_path):
        assert "which is none; choose another path" in refusal(f"sqlite:///{tmp_path}")

    def test_a_missing_directory_is_refused_and_not_made(self, tmp_path):
        assert "make it first" in refusal(f"sqlite:///{tmp_path}/missing/study.db")
        assert list(tmp_path.iterdir()) == []

    def test_damaged_rows_are_one_line(self, tmp_path):
        with Store(f"sqlite:///{tmp_path}/study.db") as store:
            store.put(a_record())
        a_database(tmp_path / "study.db", "UPDATE trials SET measurements = '{\"loss\": [0.1,'")
        with (
            Store(f"sqlite:///{tmp_path}/study.db") as store,
            pytest.raises(StoreError, match="JSONDecodeError"),
        ):
            store.get([a_record().key])

    @pytest.mark.parametrize(
        "url",
        [
            "study.db",
            "",
            "://",
            "sqlite:/study.db",
            "sqlite+aiosqlite:///study.db",
            "sqlite:///file:study.db?mode=ro&uri=true",
            "postgres://me@host/name",
            "postgresql+asyncpg://me@host/name",
            "postgresql://me@host:port/name",
            "mysql://me@host/name",
            "nosuch://me@host/name",
        ],
    )
    def test_malformed_urls_name_the_expected_form(self, url, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert "sqlite:///study.db or postgresql://" in refusal(url)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "mysql", "postgresql+asyncpg"])
    def test_passwords_are_not_repeated(self, scheme, monkeypatch):
        monkeypatch.setitem(sys.modules, "psycopg", None)
        assert "secret" not in refusal(f"{scheme}://me:secret@host/name", NormsmithError)

    def test_a_missing_driver_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed
        said = refusal("postgresql://me:secret@host/name", MissingExtraError)
        assert "pip install 'normsmith[postgres]'" in said


@pytest.fixture
def locked_directory():
    """A directory whose permissions bind this process, also where tests run as root; call it to lock."""
    directory = Path(tempfile.mkdtemp())
    user = os.geteuid()

    def lock(directory_mode: int, file_mode: int = 0o444) -> None:
        for path in directory.iterdir():
            path.chmod(file_mode)
        directory.chmod(directory_mode)
        if user == 0:
            os.seteuid(65534)

    lock.directory = directory  # type: ignore[attr-defined]
    yield lock
    os.seteuid(user)
    directory.chmod(0o755)
    shutil.rmtree(directory)


class TestPermissions:
    def test_a_directory_without_write_permission(self, locked_directory):
        locked_directory(0o555)
        said = refusal(f"sqlite:///{locked_directory.directory}/study.db")
        assert "got Permission denied; check the path, its permissions" in said
        assert "permissions" in said
        assert list(locked_directory.directory.iterdir()) == []

    @pytest.mark.parametrize("directory_mode", [0o555, 0o777])
    def test_a_file_without_write_permission(self, locked_directory, directory_mode):
        file = locked_directory.directory / "study.db"
        with Store(f"sqlite:///{file}") as store:
            store.put(a_record())
        before = file.read_bytes()
        locked_directory(directory_mode)
        assert "permissions" in refusal(f"sqlite:///{file}")
        assert file.read_bytes() == before

    def test_a_file_without_read_permission(self, locked_directory):
        file = locked_directory.directory / "study.db"
        Store(f"sqlite:///{file}").close()
        locked_directory(0o777, 0o000)
        assert "permissions" in refusal(f"sqlite:///{file}")
