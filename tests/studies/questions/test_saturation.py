"""`saturation`: whether a sigmoid network trains."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.studies.results import Verdict


class TestSaturation(QuestionContract):
    name = "saturation"

    def world(self, trial):
        noise = 0.01 * (hash_of(trial) % 5)
        if words(trial)["norm"] == "batch":
            return outcome(20, 0.9 + noise, flat=0.1 + noise)
        return outcome(20, 0.65 + noise, flat=0.6 + noise)


def test_units_of_a_network_that_does_not_learn_say_nothing():
    def world(trial):
        return outcome(20, 0.9 if words(trial)["norm"] == "batch" else 0.3, flat=hash_of(trial) % 5 / 10)

    findings, _ = ask("saturation", world)
    assert findings.effects[1].verdict is Verdict.INCONCLUSIVE
    assert "sigmoid, no norm did not learn" in findings.effects[1].sentence


def test_every_arm_has_sigmoids():
    _, asked = ask("saturation", lambda trial: outcome(20, flat=0.1))
    assert {words(trial)["activation"] for trial in asked} == {"sigmoid"}
