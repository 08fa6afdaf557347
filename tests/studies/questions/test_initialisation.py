"""`initialisation`: how much the scale of the initial weights matters."""

import math

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words


class TestInitialisation(QuestionContract):
    name = "initialisation"

    def world(self, trial):
        reach = 4 if words(trial)["norm"] == "batch" else 1
        octaves = abs(math.log2(float(words(trial).get("gain", 1.0))))
        return outcome(20 if octaves <= reach + hash_of(trial) % 2 else math.inf)

    def indifferent(self, trial):
        octaves = abs(math.log2(float(words(trial).get("gain", 1.0))))
        return outcome(20 if octaves <= 1 + trial.seed % 3 else math.inf)


def test_a_gain_of_one_is_the_arm_itself():
    _, asked = ask("initialisation", lambda trial: outcome(20))
    gains = {words(trial).get("gain") for trial in asked}
    assert 1.0 not in gains
    assert len(gains - {None}) == 10
