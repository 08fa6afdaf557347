"""Looks are declared beforehand, and a question ends at one that decides all it judges."""

import pytest
from tests.studies.claims import FAST, POINTS, SAME, SCATTERED, SLOW, a_hypothesis, pairs_of

from normsmith.studies.looks import LOOKS, declared, is_decided, only
from normsmith.studies.results import Verdict
from normsmith.studies.statistics import judge


def test_a_study_that_looks_once_has_the_whole_five_percent():
    assert [(only(seeds).most, only(seeds).share) for seeds in (10, 20)] == [(2, 1.0), (3, 1.0)]


def test_looks_judge_as_many_hypotheses_each():
    assert [(look.number, look.of, look.most) for look in declared((10, 20), (0.5, 0.5))] == [
        (1, 2, 3),
        (2, 2, 3),
    ]
    with pytest.raises(ValueError, match="shorter"):
        declared((10, 20), (1.0,))


def test_a_question_ends_where_all_that_it_judges_is_decided():
    clear, open_ = (
        pairs_of(FAST, SLOW, a_hypothesis(name="clear")),
        pairs_of(SCATTERED, SAME, a_hypothesis(name="open", **POINTS)),
    )
    assert is_decided(judge([clear]))
    assert not is_decided(judge([clear, open_]))
    assert is_decided(judge([clear, open_], most=1))  # what is shown beside does not count
    assert not is_decided([])


def test_a_first_look_asks_more_of_its_pairs_and_says_so():
    """Nine of ten would do if it were the only look."""
    nine = pairs_of((*FAST[:9], 200), SLOW, a_hypothesis())
    (alone,), (first,) = judge([nine], 3), judge([nine], 3, LOOKS[0].share)
    assert (alone.verdict, first.verdict) == (Verdict.HOLDS, Verdict.INCONCLUSIVE)
    assert first.p_adjusted == pytest.approx(alone.p / 0.16)
    assert first.needed == 10
    assert "another look at more seeds" in first.sentence
    assert "10 of 10 seeds on one side decide" in first.sentence
    assert first.interval.low < alone.interval.low
    (whole,) = judge([pairs_of(FAST, SLOW)], 3, LOOKS[0].share)
    assert whole.verdict is Verdict.HOLDS
    assert "adjusted p = 0.012" in whole.sentence
