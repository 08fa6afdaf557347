"""A store that was made and not used is taken back; one that holds anything, or that is open elsewhere, stays."""

import sqlite3
from contextlib import closing

import pytest

from normsmith.errors import StoreError
from normsmith.studies import Store
from normsmith.studies._unused import remove_unused
from normsmith.studies.store import Record

RECORD = Record({"a": 1}, "finished", "", {}, 1.0, {})


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def test_a_new_store_without_rows_goes_with_all_its_files(url, tmp_path):
    store = Store(url)
    assert store.count() == 0
    store.discard()
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match="after close"):
        store.count()


def test_one_that_was_there_stays(url, tmp_path):
    Store(url).close()
    Store(url).discard()
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


@pytest.mark.parametrize(
    "use",
    [lambda store: store.put(RECORD), lambda store: store.claims.take("somebody", RECORD.key)],
    ids=["a trial", "a claim"],
)
def test_one_that_holds_anything_stays_as_it_was(url, use):
    store = Store(url)
    use(store)
    store.discard()
    with Store(url) as again:
        assert again.count() + len(again.claims.held([RECORD.key])) == 1
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_one_that_another_study_has_opened_meanwhile_stays(url):
    store = Store(url)
    with Store(url) as other:
        store.discard()
        other.put(RECORD)
        assert other.count() == 1


def test_a_file_that_is_gone_or_no_database_is_left_alone(tmp_path):
    assert not remove_unused(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("words " * 1000)
    assert not remove_unused(tmp_path / "text.db")
    assert (tmp_path / "text.db").exists()
