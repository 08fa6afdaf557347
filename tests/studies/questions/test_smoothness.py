"""`smoothness`: whether the loss is smoother with batch norm, and that a network which does not learn says nothing."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.studies.results import Verdict

NAMES = ("effective_beta", "gradient_predictiveness", "loss_range")


def measured(trial, value, final=0.95):
    noise = 1 + 0.02 * (hash_of(trial) % 5)
    return outcome(20, final, **dict.fromkeys(NAMES, value * noise))


class TestSmoothness(QuestionContract):
    name = "smoothness"
    task = "one_rate"

    def world(self, trial):
        return measured(trial, 0.5 if words(trial)["norm"] == "batch" else 1.0)

    def indifferent(self, trial):
        return measured(trial, 1.0)


def test_a_rougher_network_is_reversed():
    findings, _ = ask(
        "smoothness", lambda trial: measured(trial, 2.0 if words(trial)["norm"] == "batch" else 1.0)
    )
    assert findings.effects[0].verdict is Verdict.REVERSED


def test_a_network_that_does_not_learn_is_smooth_and_says_nothing():
    def world(trial):
        batch = words(trial)["norm"] == "batch"
        return measured(trial, 0.5 if batch else 1.0, final=0.31 if batch else 0.95)

    findings, _ = ask("smoothness", world)
    assert findings.effects[0].verdict is Verdict.INCONCLUSIVE
    assert "did not learn" in findings.effects[0].sentence


def test_the_full_profile_shows_the_other_activation_beside():
    _, quick = ask("smoothness", TestSmoothness().world, task="activations")
    assert {words(trial).get("activation") for trial in quick} <= {None, "relu"}
    findings, asked = ask("smoothness", TestSmoothness().world, task="activations", profile="full")
    assert {"tanh"} <= {words(trial).get("activation") for trial in asked}
    assert [effect.beside for effect in findings.effects] == [False] * 3 + [True] * 3
