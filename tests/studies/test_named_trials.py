"""Stored trials have the names that studies gave them, or say what they are."""

from __future__ import annotations

from tests.contracts.store import a_record
from tests.studies.test_kept import ASKED

from normsmith.studies.named_trials import arm_text, named_trials

EDIT = {"edit": "insert-norm", "arguments": {"norm": "batch", "where": "before"}}


def test_names_are_those_of_studies(store):
    records = [
        a_record(str(number), spec={"name": number, "arm": [EDIT], "task": "f" * 64}) for number in range(3)
    ]
    for record in records:
        store.put(record)
    number = store.studies.begin(ASKED)
    store.studies.ask(number, {records[0].key: "batch norm", records[1].key: "batch norm"})
    named = {trial.record.key: trial for trial in named_trials(store)}
    assert [named[record.key].arm for record in records] == [
        "batch norm",
        "batch norm",
        "insert-norm(norm=batch, where=before)",
    ]
    assert {trial.task for trial in named.values()} == {"digits"}
    assert all(trial.stored.startswith("20") for trial in named.values())
    assert {trial.record.key for trial in named_trials(store, number)} == {records[0].key, records[1].key}


def test_trials_of_any_number_come_once_each(store):
    records = [a_record(str(number)) for number in range(205)]
    for record in records:
        store.put(record)
    keys = [trial.record.key for trial in named_trials(store)]
    assert keys == sorted(record.key for record in records)


def test_arms_without_a_name_say_their_edits():
    assert arm_text({}) == "as is"
    assert arm_text({"arm": ["norm"]}) == "norm"
    data = {"edit": "batches", "arguments": {}}
    assert arm_text({"arm": [EDIT], "data": [data]}) == "insert-norm(norm=batch, where=before), batches"
