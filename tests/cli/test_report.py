"""`normsmith report`: the report of a kept study, without its task; what is missing is said, with the command."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from tests.contracts.store import a_record
from tests.report.samples import ordinary, study
from tests.studies.test_kept import ASKED

from normsmith.report import render_html
from normsmith.studies import StudyResult
from normsmith.studies.store import Store


@pytest.fixture
def kept(tmp_path):
    """Two studies: one with its result, and one, asked before it, that was interrupted."""
    with Store(f"sqlite:///{tmp_path}/study.db") as store:
        store.put(a_record())
        late = store.studies.begin(ASKED)
        store.studies.ask(late, {a_record().key: "batch norm"})
        store.studies.finish(late, ordinary())
        early = replace(
            ASKED, questions=("smoothness",), started="2025-01-01T00:00:00+00:00", command="normsmith study x"
        )
        store.studies.ask(store.studies.begin(early), {a_record().key: "batch norm", "0" * 64: "no norm"})
    return tmp_path


def test_the_last_study_is_written_as_it_was(normsmith, kept):
    ran = normsmith("report", "study.db")
    assert (ran.code, ran.out) == (0, "")
    assert (kept / "report.html").read_text(encoding="utf-8") == render_html(ordinary())
    assert normsmith("report", "study.db", "--report", "other.html").code == 0
    assert (kept / "other.html").read_bytes() == (kept / "report.html").read_bytes()


def test_other_forms_go_to_standard_output_alone(normsmith, kept):
    assert (
        StudyResult.model_validate_json(normsmith("report", "study.db", "--format", "json").out) == ordinary()
    )
    rows = list(csv.DictReader(io.StringIO(normsmith("report", "study.db", "--format", "csv").out)))
    assert {row["task"] for row in rows} == {ordinary().task}
    assert ordinary().answers[0].headline[:30] in normsmith("report", "study.db", "--format", "text").out
    assert not (kept / "report.html").exists()


def test_a_study_that_never_finished_says_what_is_missing_and_what_completes_it(normsmith, kept):
    ran = normsmith("report", "study.db", "--study", "2")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "study 2 has not finished: 1 of the 2 trials that it has asked for so far are missing; "
        "this completes it: normsmith study x\n"
    )
    assert not (kept / "report.html").exists()


def test_a_finished_study_with_missing_trials_is_written_and_says_so(normsmith, kept):
    with Store("sqlite:///study.db") as store:
        store.studies.ask(1, {"1" * 64: "no norm"})
    ran = normsmith("report", "study.db")
    assert ran.code == 1
    assert "study 1 is complete but for these: 1 of the 2 trials" in ran.err
    assert ran.err.rstrip().endswith(ASKED.command)
    assert (kept / "report.html").exists()


def test_studies_are_listed(normsmith, kept):
    ran = normsmith("report", "study.db", "--list")
    assert ran.out.splitlines() == [
        "1  2026-02-03 10:15 UTC  digits: placement, 2 seeds; 1 trial",
        "2  2025-01-01 00:00 UTC  digits: smoothness, 2 seeds; 2 trials, 1 missing, not finished",
    ]
    assert ran.code == 0


def test_a_study_of_which_nothing_finished_is_exit_code_1(normsmith, tmp_path):
    with Store("sqlite:///study.db") as store:
        hopeless = study(trials_new=1, trials_reused=0, failures=ordinary().failures[:1])
        store.studies.finish(store.studies.begin(ASKED), hopeless)
    assert hopeless.nothing_finished
    assert normsmith("report", "study.db").code == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("no.db",), "got no file there"),
        (("empty.db",), "got an empty store; `normsmith study --store sqlite:///empty.db` fills it"),
        (("old.db",), "1 trial and no study (earlier versions kept none): ask it again"),
        (("study.db", "--study", "7"), "expected one of the studies 1, 2 of"),
    ],
)
def test_mistakes_are_one_line(normsmith, kept, arguments, word):
    Store("sqlite:///empty.db").close()
    with Store("sqlite:///old.db") as store:
        store.put(a_record())
    ran = normsmith("report", *arguments)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert word in ran.err
    assert not (kept / "report.html").exists()
    assert not (kept / "no.db").exists()
