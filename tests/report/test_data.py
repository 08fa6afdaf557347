import csv
import io
import math

import pytest
from tests.report import samples

from normsmith.report.data import CSV_COLUMNS, to_csv, to_json
from normsmith.studies.results import StudyResult

STUDIES = [samples.ordinary, samples.nasty, samples.one_seed, samples.empty]


@pytest.mark.parametrize("make", STUDIES)
def test_json_reads_back_as_it_was(make):
    assert StudyResult.model_validate_json(to_json(make())) == make()


@pytest.mark.parametrize("make", STUDIES)
def test_csv_has_a_row_for_each_effect_and_seed(make):
    result = make()
    rows = list(csv.DictReader(io.StringIO(to_csv(result))))
    expected = [
        (answer.question, effect, seed, value)
        for answer in result.answers
        for effect in answer.effects
        for seed, value in zip(effect.seeds, effect.values, strict=True)
    ]
    assert len(rows) == len(expected)
    for row, (question, effect, seed, value) in zip(rows, expected, strict=True):
        assert tuple(row) == CSV_COLUMNS
        assert row["question"] == question
        assert (int(row["seed"]), float(row["value"])) == (seed, value)
        assert float(row["value_shown"]) == (math.exp(-value) if effect.scale == "ratio" else value)
        summary = {
            name: float(row[name]) for name in ("estimate", "low", "high", "margin", "p", "p_adjusted")
        }
        assert summary == {name: getattr(effect, name) for name in summary}
        assert (row["verdict"], int(row["censored_seeds"])) == (effect.verdict.value, effect.censored)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " ="])
def test_no_text_is_a_formula_and_negative_numbers_stay_numbers(start):
    attack = f"{start}cmd|' /C calc'!A0"
    effect = (
        samples.placement()
        .effects[1]
        .model_copy(
            update={
                "name": attack,
                "hypothesis": attack,
                "treatment": attack,
                "control": attack,
                "unit": attack,
            }
        )
    )
    answer = samples.placement().model_copy(update={"question": attack, "effects": (effect,)})
    text = to_csv(samples.study(answer, task=attack))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    named = ("task", "question", "effect", "hypothesis", "treatment", "control", "unit")
    assert {row[name] for row in rows for name in named} == {f"'{attack}"}
    assert float(rows[0]["value"]) == effect.values[0] < 0
