"""The store of trials: on every database, beside other studies, and against SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from tests.contracts.store import StoreContract, a_record

from normsmith import errors
from normsmith.errors import InputError, StoreError
from normsmith.studies.store import Store, key_of

# A study in a process of its own: puts records as fast as it can and says of each that it is in.
WRITER = """
import sys
from normsmith.studies.store import Record, Store
url, name, start, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Store(url) as store:
    for number in range(start, stop):
        store.put(Record({"n": number}, "finished", name, {"loss": [number / 7] * 50}, 0.1, {"torch": "2.13"}))
        print(number, flush=True)
"""


def writer(url: str, name: str, start: int, stop: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(errors.__file__).parents[1])}
    command = [sys.executable, "-c", WRITER, url, name, str(start), str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def key(number: int) -> str:
    return key_of({"n": number}, {"torch": "2.13"})


class TestSQLiteFile(StoreContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/study.db"


class TestSQLiteInMemory(StoreContract):
    @pytest.fixture
    def url(self):
        return "sqlite://"


class TestPostgreSQL(StoreContract):
    @pytest.fixture
    def url(self, postgresql):
        return postgresql


class TestRecord:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
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
                ("normsmith", 3)
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


def altered(url: str, changes: str) -> None:
    """Change every row of a SQLite store by hand."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(f"UPDATE trials SET {changes}")
    connection.close()


class TestRowsThatWereChanged:
    @pytest.fixture
    def url(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        with Store(url) as store:
            store.put(a_record())
        return url

    @pytest.mark.parametrize(
        "changes",
        [
            "measurements = replace(measurements, '1e-300', '2e-300')",
            "measurements = '{}'",
            "measurements = 'no JSON'",
            """measurements = '{"loss": [{"$float": "much"}]}'""",
            "spec = replace(spec, '0.1', '0.2')",
            "spec = '[]'",
            "versions = replace(versions, '2.13', '2.14')",
            "status = 'diverged'",
            "status = 'lost'",
            "reason = 'none'",
            "seconds = 7",
            "seconds = 'long'",
            "digest = ''",
        ],
    )
    def test_are_refused_with_their_key(self, url, changes):
        altered(url, changes)
        with Store(url) as store, pytest.raises(StoreError, match=f"{a_record().key}.*delete that row"):
            store.get([a_record().key])

    def test_results_of_one_trial_are_not_those_of_another(self, url):
        """A row whose content is whole, but stands under another key; and results copied with their digest."""
        with Store(url) as store:
            store.put(a_record("other", measurements={"loss": [0.5]}))
        other = a_record("other").key
        altered(
            url, f"(measurements, digest) = (SELECT measurements, digest FROM trials WHERE key = '{other}')"
        )
        with Store(url) as store:
            assert store.get([other])
            with pytest.raises(StoreError, match=a_record().key):
                store.get([a_record().key])
        altered(url, f"key = '{'1' * 64}' WHERE key = '{other}'")
        with Store(url) as store, pytest.raises(StoreError, match="1" * 64):
            store.get(["1" * 64])

    def test_a_result_that_was_not_asked_for_disturbs_nobody(self, url):
        altered(url, "measurements = '{}'")
        with Store(url) as store:
            store.put(a_record("other"))
            assert store.get([a_record("other").key])


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
        assert {record.reason for record in found.values()} == {"one", "two"}

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


def test_stores_are_the_same_by_whatever_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to("a.db")
    names = (
        "sqlite:///a.db",
        f"sqlite:///{tmp_path}/a.db",
        "sqlite:///link.db",
        "sqlite:///b.db",
        "sqlite://",
        "sqlite://",
    )
    with ExitStack() as stack:
        first, absolute, linked, other, memory, another = (stack.enter_context(Store(name)) for name in names)
        assert [first.is_same(store) for store in (first, absolute, linked, other, memory)] == [
            True, True, True, False, False,
        ]  # fmt: skip
        assert memory.is_same(memory)
        assert not memory.is_same(another)
