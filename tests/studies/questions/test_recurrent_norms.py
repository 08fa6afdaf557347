"""`recurrent-norms`: whether norms inside the recurrence help, and whether steps need statistics of their own."""

import pytest
from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.errors import StudyError
from normsmith.studies.results import Verdict


class TestRecurrentNorms(QuestionContract):
    name = "recurrent-norms"
    task = "recurrent"

    def world(self, trial):
        place = words(trial).get("place")
        reaches, final = {"per step": (20, 0.97), "shared": (30, 0.9), "input": (50, 0.95)}.get(
            place, (60, 0.95)
        )
        return outcome(reaches, final + 0.001 * (hash_of(trial) % 5))


def test_networks_without_a_recurrence_are_refused_before_any_trial():
    with pytest.raises(StudyError, match=r"it changes the steps of a recurrence, .* and this is Sequential"):
        ask("recurrent-norms", TestRecurrentNorms().world)


def test_the_full_profile_has_another_start_of_gamma_beside():
    findings, asked = ask("recurrent-norms", TestRecurrentNorms().world, "recurrent", profile="full")
    assert {words(trial).get("gamma") for trial in asked} == {None, 0.1, 1.0}
    assert [effect.beside for effect in findings.effects] == [False, False, True, True, True]
    assert findings.effects[-1].verdict is Verdict.NOT_JUDGED
