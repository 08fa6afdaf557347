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
    assert all(trial.arm.data[-1].spec()["edit"] == "two-styles" for trial in asked)
    kinds = {(words(trial)["norm"], words(trial).get("affine")) for trial in asked}
    assert kinds == {("none", None), ("batch", None), ("batch", "shared"), ("batch", "own")}


def test_it_is_asked_by_name_alone():
    assert every_question()["domain-norms"].profiles == ()
    assert "domain-norms" not in {question.name for question in select((), "full")}
    assert select(("domain-norms",))
