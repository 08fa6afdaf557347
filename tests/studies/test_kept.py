"""What a store keeps of studies: one row for each, whatever became of it, and stores of earlier versions open."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
import sqlalchemy as sa
from tests.contracts.store import a_record
from tests.report.samples import nasty, ordinary

from normsmith.errors import StoreError
from normsmith.studies import Settings, Store, run_study, select
from normsmith.studies.kept import AskedStudy, Asking

ASKED = AskedStudy(
    task="digits",
    fingerprint="f" * 64,
    point=0.01,
    questions=("placement",),
    settings={"seeds": 2, "jobs": 1, "timeout": 5.0},
    versions={"torch": "2.13"},
    command="normsmith study digits-mlp",
    started="2026-02-03T10:15:42+00:00",
)


def test_a_study_is_kept_from_its_first_trial_to_its_result(store):
    done, failed = a_record("a"), a_record("b", "raised")
    number = store.studies.begin(ASKED)
    store.studies.ask(number, {done.key: "batch norm", failed.key: "no norm", "0" * 64: "no norm"})
    for record in (done, failed):
        store.put(record)
    (kept,) = store.studies.all()
    assert (kept.number, kept.asked, kept.ended, kept.trials, kept.missing) == (1, ASKED, "", 3, 2)
    assert store.studies.keys(number) == sorted((done.key, failed.key, "0" * 64))
    assert store.studies.arms([done.key, failed.key]) == {done.key: "batch norm", failed.key: "no norm"}
    with pytest.raises(StoreError, match="it was not asked or has not ended"):
        store.studies.result(number)
    store.studies.finish(number, ordinary())
    assert store.studies.all()[0].ended
    assert store.studies.result(number) == ordinary()


def test_the_same_study_asked_again_keeps_its_number_and_its_result_until_there_is_another(store):
    number = store.studies.begin(ASKED)
    store.studies.finish(number, ordinary())
    again = replace(
        ASKED, settings={**ASKED.settings, "jobs": 8}, command="again", started="2026-02-04T00:00:00+00:00"
    )
    assert store.studies.begin(again) == number
    (kept,) = store.studies.all()
    assert (kept.asked.command, kept.asked.started) == ("again", again.started)
    assert store.studies.result(number) == ordinary()
    store.studies.finish(number, nasty())
    assert store.studies.result(number) == nasty()


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "e" * 64},
        {"questions": ("placement", "fewer-steps")},
        {"settings": {"seeds": 3, "jobs": 1, "timeout": 5.0}},
        {"versions": {"torch": "2.14"}},
    ],
)
def test_what_changes_numbers_makes_another_study(store, changes):
    assert store.studies.begin(ASKED) != store.studies.begin(replace(ASKED, **changes))
    assert len(store.studies.all()) == 2


def test_the_study_that_asked_last_names_an_arm(store):
    for task, arm in (("one", "first"), ("two", "second")):
        number = store.studies.begin(replace(ASKED, task=task, versions={"torch": task}))
        store.studies.ask(number, {"1" * 64: arm})
        store.studies.ask(number, {"1" * 64: arm})  # again is no error
    assert store.studies.arms(["1" * 64]) == {"1" * 64: "second"}


def test_names_that_databases_refuse_are_kept_as_far_as_they_go(store):
    number = store.studies.begin(replace(ASKED, task="lone \ud800", command="nul \0"))
    store.studies.ask(number, {"1" * 64: "arm \ud800"})
    asked = store.studies.all()[0].asked
    assert (asked.task, asked.command) == ("lone ?", "nul \N{REPLACEMENT CHARACTER}")
    assert store.studies.arms(["1" * 64]) == {"1" * 64: "arm ?"}


def without_the_tables(path):
    with Store(f"sqlite:///{path}") as store:
        store.put(a_record())
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE studies")
    connection.execute("DROP TABLE asked")
    connection.commit()
    connection.close()


def test_a_store_of_an_earlier_version_opens_and_gets_its_tables_with_the_next_study(tmp_path):
    without_the_tables(tmp_path / "study.db")
    with Store(f"sqlite:///{tmp_path}/study.db") as store:
        assert store.studies.all() == []
        assert store.studies.arms([a_record().key]) == {}
        with pytest.raises(StoreError, match="not asked"):
            store.studies.result(1)
        assert (
            "studies" not in sa.inspect(sa.create_engine(f"sqlite:///{tmp_path}/study.db")).get_table_names()
        )
        assert store.studies.begin(ASKED) == 1
        assert len(store.studies.all()) == 1
        assert store.count() == 1


@pytest.mark.parametrize("change", ["format = 2", "result = '{\"task\": 1}'", "result = 'no JSON'"])
def test_a_result_that_cannot_be_read_is_refused(tmp_path, change):
    with Store(f"sqlite:///{tmp_path}/study.db") as store:
        store.studies.finish(store.studies.begin(ASKED), ordinary())
        connection = sqlite3.connect(tmp_path / "study.db")
        connection.execute(f"UPDATE studies SET {change}")
        connection.commit()
        connection.close()
        assert len(store.studies.all()) == 1
        with pytest.raises(StoreError, match="another version wrote it"):
            store.studies.result(1)


def test_nothing_is_kept_of_a_study_that_asks_for_no_trial(store):
    asking = Asking(store.studies, ASKED)
    assert store.studies.all() == []
    asking.ask({"1" * 64: "as is"})
    assert [kept.trials for kept in store.studies.all()] == [1]


def test_a_result_that_the_store_does_not_take_is_returned_with_a_note(store):
    asking = Asking(store.studies, ASKED)
    asking.ask({"1" * 64: "as is"})
    store.close()
    result = asking.finish(ordinary())
    assert result.answers == ordinary().answers
    assert result.notes[-1].startswith("This result is not kept: expected an open store")


def test_neither_is_one_that_cannot_be_written(store):
    asking = Asking(store.studies, ASKED)
    result = ordinary().model_copy(update={"task": "lone \ud800"})
    assert "This result is not kept" in asking.finish(result).notes[-1]


def test_what_a_study_answers_is_what_its_store_keeps(store, tiny):
    result = run_study(
        tiny("one_rate"), select(("fewer-steps",)), store, Settings(seeds=1, steps=5), command="me"
    )
    (kept,) = store.studies.all()
    assert store.studies.result(kept.number) == result
    assert (kept.asked.task, kept.asked.questions, kept.asked.command) == ("one rate", ("fewer-steps",), "me")
    assert kept.asked.settings["seeds"] == 1
    assert kept.trials == store.count() == len(store.studies.keys(1))
    assert kept.missing == 0
    assert "no norm" in " ".join(store.studies.arms(store.studies.keys(1)).values())
