"""`domain-norms`: whether a norm for each of two styles is better than one for both."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.studies import select
from normsmith.studies.question import every_question


class TestDomainNorms(QuestionContract):
    name = "domain-norms"

    def world(self, trial):
        return outcome(40, final=(0.95 if "domains" in words(trial) else 0.9) + 0.001 * (hash_of(trial) % 3))


def test_every_arm_has_both_styles_and_two_have_a_norm_for_each():
    _, asked = ask("domain-norms", TestDomainNorms().world, seeds=2, profile="full")
    edits = {tuple(change.spec()["edit"] for change in trial.arm.data) for trial in asked}
    assert {names[-2:] for names in edits} == {("two-styles",), ("two-styles", "styles-standardised")}
    kinds = {(words(trial)["norm"], words(trial).get("affine")) for trial in asked}
    assert kinds == {("none", None), ("batch", None), ("batch", "shared"), ("batch", "own")}


def test_it_is_asked_by_name_alone():
    assert every_question()["domain-norms"].profiles == ()
    assert "domain-norms" not in {question.name for question in select((), "full")}
    assert select(("domain-norms",))


def test_one_norm_that_is_told_the_styles_stands_beside_in_the_full_profile():
    quick, _ = ask("domain-norms", TestDomainNorms().world)
    full, _ = ask("domain-norms", TestDomainNorms().world, profile="full")
    assert len(quick.effects) == len(full.effects) - 1 == 2
    assert full.effects[-1].beside
    assert full.effects[-1].control == "one batch norm, each style standardised before"
