"""`whitening`: whether it goes further than batch norm."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words


class TestWhitening(QuestionContract):
    name = "whitening"

    def world(self, trial):
        return outcome((25 if "most" in words(trial) else 60) + 5 * (hash_of(trial) % 2))


def test_every_arm_has_correlated_inputs():
    _, asked = ask("whitening", TestWhitening().world, seeds=2)
    assert {words(trial)["condition"] for trial in asked} == {30.0}
    kinds = {change.spec()["edit"]: change for trial in asked for change in trial.arm.edits}
    assert {"insert-norm", "insert-whitening"} <= kinds.keys()


def test_the_target_is_said_to_be_that_of_batch_norm():
    findings, _ = ask("whitening", TestWhitening().world, "untargeted", seeds=2)
    assert "to the best of batch norm before activation, on validation" in findings.notes[0]
