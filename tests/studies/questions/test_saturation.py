"""`saturation`: whether a sigmoid network trains."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words


class TestSaturation(QuestionContract):
    name = "saturation"

    def world(self, trial):
        noise = 0.01 * (hash_of(trial) % 5)
        if words(trial)["norm"] == "batch":
            return outcome(20, 0.9 + noise, flat=0.1 + noise)
        return outcome(20, 0.3 + noise, flat=0.6 + noise)


def test_every_arm_has_sigmoids():
    _, asked = ask("saturation", lambda trial: outcome(20, flat=0.1))
    assert {words(trial)["activation"] for trial in asked} == {"sigmoid"}
