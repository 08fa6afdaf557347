"""Rows hold what a trial is and measured, each value in its own kind."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

from tests.report.trials.made import nasty, trial

from normsmith.report.trials.rows import TABLES, measured_at
from normsmith.studies.store import Record

KINDS = {"text": str, "whole": int, "number": float, "time": datetime}


def rows(name, made):
    table = TABLES[name]
    return [dict(zip(table.columns, row, strict=True)) for row in table.of(made)]


def test_a_trial_is_one_row_with_all_that_it_is():
    made = trial(3)
    (row,) = rows("trials", made)
    assert (row["key"], row["task"], row["arm"]) == (made.record.key, "digits", "no norm")
    assert (row["learning_rate"], row["seed"], row["steps"], row["stream"]) == (0.1, 3, 4, 0)
    assert (row["loss"], row["validation"], row["test"]) == (0.1 + 0.2, 0.75, 0.7)
    assert row["stored"] == datetime(2026, 2, 3, 10, 15, 42, tzinfo=UTC)
    assert (row["backend"], row["instruction_set"], row["numpy"]) == ("numba 0.66", "x86_64 AVX2", None)
    assert json.loads(row["edits"]) == made.record.spec["arm"]
    assert json.loads(row["versions"]) == made.record.versions


def test_curves_and_probes_are_a_row_each():
    made = trial()
    assert [tuple(row.values())[1:] for row in rows("evaluations", made)][1:] == [
        (2, 1.5, 0.5, 0.5),
        (4, 0.1 + 0.2, 0.75, 0.7),
    ]
    assert math.isnan(rows("evaluations", made)[0]["loss"])
    assert [tuple(row.values())[1:] for row in rows("probes", made)] == [
        ("σ′", 0, 2, 0.25),
        ("σ′", 1, 4, 0.125),
    ]


def test_steps_of_a_probe_that_left_out_a_turn_are_not_known():
    assert measured_at(trial(), [1.0]) == ()
    assert measured_at(trial(), [1.0, 2.0]) == (2, 4)


def test_every_value_is_of_the_kind_of_its_column():
    bare = trial()
    bare = type(bare)(Record({}, "raised", "it raised", {}, 0.0, {}), "digits", "as is")
    for name, table in TABLES.items():
        for made in (trial(), nasty(), bare):
            for row in rows(name, made):
                for column, value in row.items():
                    assert value is None or type(value) is KINDS[table.columns[column]], (name, column)


def test_what_no_encoding_has_is_written_as_python_does():
    (row,) = rows("trials", nasty())
    assert row["task"] == "task \\ud800"
    assert row["reason"].count("é\\udce9\0,") == 200_000
    assert rows("probes", nasty())[0]["probe"] == "p\\ud800"
    assert math.isinf(row["loss"])
