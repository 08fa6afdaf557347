"""Stores are opened to be read, and studies are found by number."""

from __future__ import annotations

import pytest
from tests.studies.test_kept import ASKED

from normsmith.cli.stores import chosen, existing_store, incomplete, store_of_study
from normsmith.errors import StoreError, StudyError
from normsmith.studies.kept import KeptStudy
from normsmith.studies.store import Store


def test_a_file_or_a_url_names_a_store_which_is_never_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="got no file there"):
        existing_store("study.db")
    Store("sqlite:///study.db").close()
    for name in ("study.db", "sqlite:///study.db", str(tmp_path / "study.db")):
        existing_store(name).close()
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_the_study_that_was_asked_last_is_chosen(tmp_path):
    with Store("sqlite://") as store:
        with pytest.raises(StoreError, match=r"got an empty store; .* fills it"):
            chosen(store, None)
        store.studies.begin(ASKED)
        assert chosen(store, None).number == chosen(store, 1).number == 1


def test_a_study_from_python_is_completed_from_python():
    from dataclasses import replace

    kept = KeptStudy(3, replace(ASKED, command=""), "", 5, 2)
    assert incomplete(kept).endswith(
        "run it again from Python, with the same task, questions, settings and store"
    )
    assert incomplete(KeptStudy(3, ASKED, "2026-02-03", 5, 0)) == ""


def test_a_store_of_a_study_goes_with_a_refusal_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError), store_of_study("sqlite:///study.db"):
        raise StudyError("not this one")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), store_of_study("sqlite:///study.db"):
        raise KeyError
    assert (tmp_path / "study.db").exists()
