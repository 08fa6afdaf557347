import csv
import io

import pytest
from tests.report import samples

from normsmith.report.data import CSV_COLUMNS, to_csv, to_json
from normsmith.studies import notation
from normsmith.studies.results import StudyResult

STUDIES = [samples.ordinary, samples.nasty, samples.one_seed, samples.empty, samples.budgeted]


@pytest.mark.parametrize("make", STUDIES)
def test_json_reads_back_as_it_was(make):
    assert StudyResult.model_validate_json(to_json(make())) == make()


@pytest.mark.parametrize("make", STUDIES)
def test_csv_has_a_row_for_each_effect_and_seed(make):
    result = make()
    rows = list(csv.DictReader(io.StringIO(to_csv(result))))
    expected = [
        (answer.question, effect, seed, interval)
        for answer in result.answers
        for effect in answer.effects
        for seed, interval in zip(effect.seeds, effect.effects, strict=True)
    ]
    assert len(rows) == len(expected)
    for row, (question, effect, seed, interval) in zip(rows, expected, strict=True):
        assert tuple(row) == CSV_COLUMNS
        assert row["question"] == question
        assert (int(row["seed"]), float(row["effect_low"]), float(row["effect_high"])) == (seed, *interval)
        assert row["shown"].lstrip("'") == notation.span(effect, interval)
        summary = {name: float(row[name]) for name in ("margin", "p", "p_adjusted", "beyond", "short")}
        assert summary == {name: getattr(effect, name) for name in summary}
        for name in ("median", "interval"):
            assert (float(row[f"{name}_low"]), float(row[f"{name}_high"])) == getattr(effect, name)
        assert (row["verdict"], int(row["censored_seeds"])) == (effect.verdict.value, effect.censored)


def test_csv_says_the_look_of_a_study_that_looks_twice():
    rows = list(csv.DictReader(io.StringIO(to_csv(samples.budgeted()))))
    looks = {(row["question"], row["look"], row["look_alpha"]) for row in rows}
    assert looks == {("fewer-steps", "1", "0.008"), ("placement", "2", "0.042")}
    once = csv.DictReader(io.StringIO(to_csv(samples.ordinary())))
    assert {(row["look"], row["look_alpha"]) for row in once} == {("", "")}


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
    assert float(rows[0]["effect_low"]) == effect.effects[0].low < 0
