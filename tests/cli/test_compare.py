"""`normsmith compare`: exit code 1 where stores do not agree, one line for a mistake."""

from __future__ import annotations

import json

import pytest
from tests.contracts.store import a_record

from normsmith.studies.store import Store


@pytest.fixture
def stores(tmp_path):
    def fill(**by_name):
        for name, records in by_name.items():
            with Store(f"sqlite:///{tmp_path}/{name}.db") as store:
                for record in records:
                    store.put(record)

    return fill


def test_stores_that_agree_and_do_not(normsmith, stores):
    stores(
        a=[a_record("x"), a_record("y")],
        b=[a_record("x", seconds=9.0)],
        c=[a_record("x", measurements={"test": [1.0]})],
    )
    ran = normsmith("compare", "a.db", "b.db")
    assert (ran.code, ran.err) == (0, "")
    assert "In both under the same key: 1 trial; 1 have the same results" in ran.out
    assert "Nothing contradicts." in ran.out
    ran = normsmith("compare", "a.db", "c.db", "--format", "json")
    assert ran.code == 1
    whole = json.loads(ran.out)
    assert not whole["agree"]
    assert [each["key"] for each in whole["same_key"]["unequal"]] == [a_record("x").key]


def test_stores_with_nothing_in_common_do_not_agree(normsmith, stores):
    stores(a=[a_record("x")], b=[a_record("y")])
    ran = normsmith("compare", "a.db", "b.db")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.splitlines()[-1].startswith("Nothing was compared: the stores have no trial")


@pytest.mark.parametrize(
    ("second", "word"),
    [
        ("no.db", "got no file there"),
        ("empty.db", "got an empty store"),
        ("a.db", "expected two stores to compare, got sqlite:///a.db twice"),
        ("sqlite:///../{here}/a.db", "twice"),
    ],
)
def test_mistakes_are_one_line(normsmith, stores, second, word, tmp_path):
    stores(a=[a_record()], empty=[])
    ran = normsmith("compare", "a.db", second.format(here=tmp_path.name))
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert word in ran.err
    assert not (tmp_path / "no.db").exists()
