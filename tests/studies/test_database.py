"""Opening a store: what is no store is refused in one line and left as it is, byte for byte."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

import pytest
from tests.contracts.store import a_record

from normsmith.errors import MissingExtraError, NormsmithError, StoreError
from normsmith.studies._database import SCHEMA_VERSION
from normsmith.studies.store import Store


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


def no_tables(path: Path) -> None:
    a_database(path, "CREATE TABLE thesis (chapter)", "DROP TABLE thesis")


def newer_schema(path: Path) -> None:
    Store(f"sqlite:///{path}").close()
    a_database(path, f"UPDATE meta SET schema_version = {SCHEMA_VERSION + 1}")


def older_schema(path: Path) -> None:
    Store(f"sqlite:///{path}").close()
    a_database(path, f"UPDATE meta SET schema_version = {SCHEMA_VERSION - 1}")


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
            (no_tables, "got a database without tables; choose another path"),
            (
                newer_schema,
                f"expected schema {SCHEMA_VERSION} .* got {SCHEMA_VERSION + 1}: .* upgrade normsmith",
            ),
            (
                older_schema,
                f"expected schema {SCHEMA_VERSION} .* got {SCHEMA_VERSION - 1}: an older normsmith wrote it, "
                ".* choose another store",
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

    def test_a_damaged_file_is_said_to_be_one(self, tmp_path):
        with Store(f"sqlite:///{tmp_path}/study.db") as store:
            for name in map(str, range(40)):
                store.put(a_record(name))
        whole = (tmp_path / "study.db").read_bytes()
        (tmp_path / "study.db").write_bytes(whole[: len(whole) // 2])
        with (
            pytest.raises(StoreError, match="malformed; the file is damaged: put a copy of it back"),
            Store(f"sqlite:///{tmp_path}/study.db", create=False) as store,
        ):
            list(store.pages())

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
            pytest.raises(StoreError, match=a_record().key),
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

    def test_a_file_without_its_scheme_is_told_how_to_write_it(self):
        assert refusal("some/study.db").endswith("; for that file write sqlite:///some/study.db")

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


class TestLostFiles:
    @pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "folder moved"])
    def test_a_file_that_is_no_longer_there_is_said(self, tmp_path, how):
        folder = tmp_path / "folder"
        folder.mkdir()
        with Store(f"sqlite:///{folder}/study.db") as store:
            store.put(a_record())
            if how == "deleted":
                (folder / "study.db").unlink()
            elif how == "moved":
                (folder / "study.db").rename(folder / "other.db")
            elif how == "folder moved":
                folder.rename(tmp_path / "other")
            else:
                Store(f"sqlite:///{folder}/other.db").close()
                (folder / "other.db").replace(folder / "study.db")
            for work in (lambda: store.put(a_record("b")), store.count, lambda: store.claims.take("me", "a")):
                with pytest.raises(
                    StoreError, match="is gone: its file was deleted, moved or replaced"
                ) as caught:
                    work()
                assert "\n" not in str(caught.value)

    def test_a_table_that_is_dropped_is_said(self, tmp_path):
        with Store(f"sqlite:///{tmp_path}/study.db") as store:
            a_database(tmp_path / "study.db", "DROP TABLE trials")
            with pytest.raises(StoreError, match="no such table: trials"):
                store.put(a_record())


def test_only_a_store_in_memory_is_not_kept(tmp_path):
    with (
        Store("sqlite://") as memory,
        Store("sqlite:///:memory:") as named,
        Store(f"sqlite:///{tmp_path}/a.db") as file,
    ):
        assert (memory.is_kept, named.is_kept, file.is_kept) == (False, False, True)


class TestStoresThatMustBeThere:
    def test_none_is_made(self, tmp_path):
        for place in ("study.db", "missing/study.db"):
            with pytest.raises(StoreError, match="got no file there; check the path"):
                Store(f"sqlite:///{tmp_path}/{place}", create=False)
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_store_is_refused(self, tmp_path):
        not_a_database(tmp_path / "study.db")
        with pytest.raises(StoreError, match="got another file"):
            Store(f"sqlite:///{tmp_path}/study.db", create=False)

    def test_what_a_server_refuses_says_what_to_do(self, postgresql, server):
        other = postgresql.replace("/postgres?", "/nowhere?")
        for url, said in (
            (postgresql, r"without tables; `normsmith study --store postgresql.* makes one there"),
            (other, '"nowhere" does not exist; make that database with `createdb`, or correct its name'),
            (postgresql.replace("//postgres@", "//nobody@"), "check the user and the password"),
        ):
            with pytest.raises(StoreError, match=said) as caught:
                Store(url, create=False)
            assert "\n" not in str(caught.value)

    def test_one_is_read_beside_a_study_and_left_without_further_files(self, tmp_path):
        with Store(f"sqlite:///{tmp_path}/study.db") as writing:
            writing.put(a_record("a"))
            with Store(f"sqlite:///{tmp_path}/study.db", create=False) as store:
                writing.put(a_record("b"))
                assert store.count() == 2
        with Store(f"sqlite:///{tmp_path}/study.db", create=False) as store:
            assert store.count() == 2
        assert [path.name for path in tmp_path.iterdir()] == ["study.db"]

    def test_one_that_cannot_be_written_is_read(self, tmp_path, monkeypatch):
        with Store(f"sqlite:///{tmp_path}/study.db") as store:
            store.put(a_record())
        before = (tmp_path / "study.db").read_bytes()
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write whatever its mode
        with Store(f"sqlite:///{tmp_path}/study.db", create=False) as store:
            assert store.get([a_record().key]) == {a_record().key: a_record()}
            assert store.studies.all() == []
            with pytest.raises(StoreError, match="readonly"):
                store.put(a_record("b"))
        assert (tmp_path / "study.db").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["study.db"]
