"""`normsmith export`: what it writes where, and how it takes a mistake."""

from __future__ import annotations

import csv

import pytest
from tests.contracts.store import a_record
from tests.studies.test_kept import ASKED

from normsmith.studies.store import Store


@pytest.fixture
def filled(tmp_path):
    with Store(f"sqlite:///{tmp_path}/study.db") as store:
        for name in "abc":
            store.put(a_record(name))
        store.studies.ask(store.studies.begin(ASKED), {a_record("a").key: "batch norm"})
    return tmp_path / "study.db"


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_trials_curves_and_those_of_a_study_go_to_files(normsmith, filled, tmp_path):
    ran = normsmith("export", "study.db", "--to", "trials.csv")
    assert (ran.code, ran.out) == (0, "")
    assert "3 rows: sqlite:///study.db to trials.csv" in ran.err
    assert {row["arm"] for row in rows(tmp_path / "trials.csv")} == {"norm", "batch norm"}
    normsmith("export", f"sqlite:///{filled}", "--to", "one.CSV", "--study", "1")
    assert [row["arm"] for row in rows(tmp_path / "one.CSV")] == ["batch norm"]
    assert normsmith("export", "study.db", "--to", "curves.parquet", "--rows", "evaluations").code == 0
    assert normsmith("export", "study.db", "--to", "tensorboard").code == 0
    assert len({path.parent for path in (tmp_path / "runs").rglob("events.*")}) == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("no.db", "--to", "t.csv"), "got no file there"),
        (("thesis.txt", "--to", "t.csv"), "got another file"),
        (("empty.db", "--to", "t.csv"), "got an empty store"),
        (("study.db", "--to", "there.csv"), "--force overwrites it"),
        (("study.db", "--to", "t.xlsx"), "ends in .csv or .parquet"),
        (("study.db", "--to", "t.parqet"), "did you mean .parquet?"),
        (("study.db", "--to", "tensorbord:runs"), "did you mean tensorboard?"),
        (("study.db", "--to", "no/such/t.csv"), "which does not exist. Create it"),
        (("study.db", "--to", "t.csv", "--study", "7"), "got 7"),
        (("study.db", "--to", "mlflow:", "--rows", "probes"), "expected --rows with"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(normsmith, filled, tmp_path, arguments, word):
    Store(f"sqlite:///{tmp_path}/empty.db").close()
    (tmp_path / "thesis.txt").write_text("my thesis, chapter one")
    (tmp_path / "there.csv").write_text("my thesis")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ran = normsmith("export", *arguments)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert word in ran.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
