"""A store that is lost while a study runs does not take the computed trials with it."""

import tempfile

import pytest
from tests.contracts.store import a_record

from normsmith.errors import StoreError
from normsmith.studies.rescue import FILE, rescuing
from normsmith.studies.store import Store

RECORDS = {record.key: record for record in (a_record("a"), a_record("b", "raised"))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def lose(url, file):
    """Put one record, remove the file, put another; returns what is said."""

    def study(store):
        with rescuing(store, RECORDS):
            for record in RECORDS.values():
                store.put(record)
                file.unlink(missing_ok=True)

    with (
        Store(url) as store,
        pytest.raises(StoreError, match="is gone: its file was deleted, moved or repl") as caught,
    ):
        study(store)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_deleted(folder, tmp_path):
    said = lose(f"sqlite:///{tmp_path}/study.db", tmp_path / "study.db")
    url = f"sqlite:///{folder / FILE}"
    assert said.endswith(f"are saved: the same command goes on from them with --store {url}")
    assert "2 trials of this study that it does not have" in said
    with Store(url) as store:
        assert store.get(RECORDS) == RECORDS


def test_a_working_directory_that_cannot_be_written_to(folder, tmp_path, monkeypatch):
    (folder / FILE).write_text("my thesis")
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(elsewhere))
    assert str(elsewhere / FILE) in lose(f"sqlite:///{tmp_path}/study.db", tmp_path / "study.db")
    assert (folder / FILE).read_text() == "my thesis"
    with Store(f"sqlite:///{elsewhere / FILE}") as store:
        assert store.get(RECORDS) == RECORDS


def test_what_cannot_be_saved_is_said_to_be_lost(folder, tmp_path, monkeypatch):
    (folder / FILE).write_text("my thesis")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "missing"))
    said = lose(f"sqlite:///{tmp_path}/study.db", tmp_path / "study.db")
    assert "are lost, since they could not be saved either: " in said


def test_a_store_that_has_them_needs_no_rescue(folder, store):
    for record in RECORDS.values():
        store.put(record)
    with pytest.raises(StoreError, match=r"^a row was changed$"), rescuing(store, RECORDS):
        raise StoreError("a row was changed")
    assert list(folder.iterdir()) == []
