"""`small-batches`: whether batch norm fails there and renorm cures it."""

import pytest
from tests.contracts.question import ACTIVE, QuestionContract, ask, hash_of, outcome, words

from normsmith.errors import StudyError

FINAL = {("batch", 32): 0.95, ("batch", 4): 0.9, ("batch", 2): 0.5}


def final(trial):
    said = words(trial)
    return FINAL.get((said["norm"], said.get("ghost_batch_size")), 0.92) + 0.002 * (hash_of(trial) % 5)


class TestSmallBatches(QuestionContract):
    name = "small-batches"

    def world(self, trial):
        return outcome(20, final(trial), **ACTIVE)

    def indifferent(self, trial):
        return outcome(20, 0.9 + 0.002 * (hash_of(trial) % 9), **ACTIVE)


def test_renorm_that_did_nothing_is_no_evidence():
    idle = dict.fromkeys(ACTIVE, 0.0)
    with pytest.raises(StudyError, match="renorm was not active"):
        ask("small-batches", lambda trial: outcome(20, final(trial), **idle))


def test_the_sgd_batch_stays_and_renorm_knows_the_budget():
    _, asked = ask("small-batches", lambda trial: outcome(20, final(trial), **ACTIVE))
    renorm = [words(trial) for trial in asked if words(trial)["norm"] == "renorm"]
    assert {said["total_steps"] for said in renorm} == {100}
    assert {said["ghost_batch_size"] for said in renorm} == {2}


def test_the_full_profile_has_more_sizes_and_norms_that_do_not_depend_on_the_batch():
    _, asked = ask("small-batches", lambda trial: outcome(20, final(trial), **ACTIVE), profile="full")
    said = [words(trial) for trial in asked]
    assert {each["ghost_batch_size"] for each in said if each["norm"] == "renorm"} == {32, 16, 8, 4, 2}
    assert {each["norm"] for each in said if "ghost_batch_size" not in each} == {"layer", "group"}
